#include "backend/plan/weights.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "backend/plan/checkpoint.h"
#include "backend/plan/dummy_weights.h"
#include "backend/plan/recipe.h"
#include "backend/plan/upload.h"
#include "kernels/core/buffer.h"
#include "kernels/core/check.h"
#include "kernels/core/device.h"

namespace inflight::plan {
namespace {

constexpr size_t kAlignment = 256;  // bulk copies and wide loads need less

size_t bytes_of(const WeightSpec& spec) {
  size_t bytes = size_of(spec.dtype);
  for (int64_t extent : spec.shape) bytes *= static_cast<size_t>(extent);
  return bytes;
}

/// Equal recipes share memory: tied embeddings of another dtype than the checkpoint's.
std::string key_of(const WeightSpec& spec) {
  std::string key = concat(name_of(spec.dtype), ' ', spec.recipe.axis);
  for (const int64_t extent : spec.shape) key += concat(' ', extent);
  for (const RecipeSource& source : spec.recipe.sources) {
    key += concat(' ', source.tensor);
    for (const Range& range : source.slice) key += concat(' ', range.begin, ':', range.end);
  }
  return key;
}

/// The same of resolved slices, where a whole tensor and a slice of all of it are equal.
std::string key_of(const WeightSpec& spec, const std::vector<SourceSlice>& slices) {
  std::string key = concat(name_of(spec.dtype), ' ', spec.recipe.axis);
  for (const SourceSlice& slice : slices) {
    key += concat(' ', static_cast<const void*>(slice.data));
    for (int i = 0; i < slice.rank; ++i) key += concat(' ', slice.begin[i], ':', slice.extent[i]);
  }
  return key;
}

}  // namespace

class Weights::Impl {
 public:
  Impl(const EngineFile& engine, int rank, Device device, cpu::ThreadPool& pool, LoadFormat format)
      : device_(device), plan_(engine.ranks.at(rank)) {
    if (format == LoadFormat::kDummy) {
      make_dummy(engine, pool);
      return;
    }
    check(!engine.checkpoint_files.empty() || plan_.weights.empty(), engine.directory.string(),
          ": the engine was built from a config.json alone, without "
          "weights; it can be loaded with load_format \"dummy\" only");
    checkpoint_.emplace(engine.checkpoint_files);
    if (device.type == DeviceType::kCuda) {
      upload_all(engine);
      checkpoint_.reset();
      return;
    }
    for (const auto& [name, spec] : plan_.weights) add(name, spec, place(name, spec, pool));
  }

  const TensorView& view(std::string_view name) const {
    const auto found = views_.find(name);
    if (found == views_.end()) {
      throw Error(ErrorCode::kNotFound, concat("weight ", name, " is not in the plan"));
    }
    return found->second;
  }

  int64_t bytes_mapped() const { return bytes_mapped_; }
  int64_t bytes_allocated() const { return bytes_allocated_; }

 private:
  void add(const std::string& name, const WeightSpec& spec, void* data) {
    TensorView view;
    view.dtype = spec.dtype;
    view.device = device_;
    for (int64_t extent : spec.shape) view.shape[view.rank++] = extent;
    view.set_dense_strides();
    view.data = data;
    views_.emplace(name, view);
  }

  /// The weight's bytes on the CPU, assembled only if they do not lie in a file as wanted.
  void* place(const std::string& name, const WeightSpec& spec, cpu::ThreadPool& pool) {
    const std::vector<SourceSlice> slices = resolve_recipe(spec, name, *checkpoint_);
    const size_t bytes = bytes_of(spec);
    if (const uint8_t* data = find_in_place(spec, slices)) {
      if (mapped_.emplace(data, bytes).second) bytes_mapped_ += static_cast<int64_t>(bytes);
      return const_cast<uint8_t*>(data);  // a view has one pointer type; no op writes a weight
    }
    void*& data = assembled_[key_of(spec, slices)];
    if (!data) {
      buffers_.emplace_back(bytes == 0 ? size_t{1} : bytes);
      data = buffers_.back().data();
      assemble(spec, slices, data, pool);
      release_pages(slices);
      bytes_allocated_ += static_cast<int64_t>(bytes);
    }
    return data;
  }

  /// One allocation for weights of these keys; equal keys share. `visit(name, spec, data, is_new)`
  /// is called in order of name.
  template <typename Visit>
  void allocate(const EngineFile& engine, const ByName<std::string>& keys, const Visit& visit) {
    std::map<std::string_view, size_t> offsets;
    size_t total = 0;
    for (const auto& [name, spec] : plan_.weights) {
      if (offsets.emplace(keys.at(name), total).second) {
        total += (bytes_of(spec) + kAlignment - 1) / kAlignment * kAlignment;
      }
    }
    check_room(engine, static_cast<int64_t>(total));
    buffers_.emplace_back(std::max(total, kAlignment), device_);
    bytes_allocated_ = static_cast<int64_t>(total);
    std::set<std::string_view> seen;
    for (const auto& [name, spec] : plan_.weights) {
      const std::string& key = keys.at(name);
      void* data = static_cast<uint8_t*>(buffers_.back().data()) + offsets.at(key);
      add(name, spec, data);
      visit(name, spec, data, seen.insert(key).second);
    }
  }

  void check_room(const EngineFile& engine, int64_t bytes) const {
    if (device_.type != DeviceType::kCuda) return;
    const DeviceMemory memory = device_memory(device_);
    if (bytes > memory.free_bytes) {
      throw Error(ErrorCode::kResourceExhausted,
                  concat(engine.directory.string(), ": the weights need ", bytes,
                         " bytes, CUDA device ", device_.index, " has ", memory.free_bytes,
                         " of its ", memory.total_bytes, " free"));
    }
  }

  void upload_all(const EngineFile& engine) {
    ByName<std::string> keys;
    ByName<std::vector<SourceSlice>> slices;
    for (const auto& [name, spec] : plan_.weights) {
      auto& resolved = slices[name] = resolve_recipe(spec, name, *checkpoint_);
      keys.emplace(name, key_of(spec, resolved));
    }
    std::vector<UploadJob> jobs;
    allocate(engine, keys,
             [&](const std::string& name, const WeightSpec& spec, void* data, bool is_new) {
               if (is_new) jobs.push_back({&spec, std::move(slices.at(name)), data});
             });
    upload(jobs, device_);
  }

  void make_dummy(const EngineFile& engine, cpu::ThreadPool& pool) {
    ByName<std::string> keys;
    for (const auto& [name, spec] : plan_.weights) keys.emplace(name, key_of(spec));
    const auto biases = bias_names(plan_);
    allocate(engine, keys,
             [&](const std::string& name, const WeightSpec& spec, void* data, bool is_new) {
               if (is_new) {
                 fill_dummy(spec, name, keys.at(name), biases.contains(name), data, device_, pool);
               }
             });
  }

  const Device device_;
  const Plan& plan_;
  std::optional<Checkpoint> checkpoint_;
  ByName<TensorView> views_;
  std::vector<Buffer> buffers_;
  ByName<void*> assembled_;
  std::set<std::pair<const uint8_t*, size_t>> mapped_;
  int64_t bytes_mapped_ = 0;
  int64_t bytes_allocated_ = 0;
};

Weights::Weights(const EngineFile& engine, int rank, Device device, cpu::ThreadPool& pool,
                 LoadFormat format)
    : impl_(std::make_unique<Impl>(engine, rank, device, pool, format)) {}
Weights::~Weights() = default;

const TensorView& Weights::view(std::string_view name) const { return impl_->view(name); }
int64_t Weights::bytes_mapped() const { return impl_->bytes_mapped(); }
int64_t Weights::bytes_allocated() const { return impl_->bytes_allocated(); }

}  // namespace inflight::plan
