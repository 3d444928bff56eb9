#include "backend/plan/weights.h"

#include <set>
#include <utility>

#include "backend/plan/checkpoint.h"
#include "backend/plan/recipe.h"
#include "kernels/core/buffer.h"
#include "kernels/core/check.h"

namespace inflight::plan {

class Weights::Impl {
 public:
  Impl(const EngineFile& engine, int rank, Device device, cpu::ThreadPool& pool)
      : checkpoint_(engine.checkpoint_files) {
    if (device.type != DeviceType::kCpu) {
      throw Error(ErrorCode::kUnsupported, "this build loads weights on the cpu only");
    }
    for (const auto& [name, spec] : engine.ranks.at(rank).weights) {
      TensorView view;
      view.dtype = spec.dtype;
      for (int64_t extent : spec.shape) view.shape[view.rank++] = extent;
      view.set_dense_strides();
      view.data = place(name, spec, pool);
      views_.emplace(name, view);
    }
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
  /// The weight's bytes, assembled only if they do not lie in a file as wanted.
  void* place(const std::string& name, const WeightSpec& spec, cpu::ThreadPool& pool) {
    const std::vector<SourceSlice> slices = resolve_recipe(spec, name, checkpoint_);
    size_t bytes = size_of(spec.dtype);
    for (int64_t extent : spec.shape) bytes *= static_cast<size_t>(extent);
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

  /// Equal recipes share memory: tied embeddings of another dtype than the checkpoint's.
  static std::string key_of(const WeightSpec& spec, const std::vector<SourceSlice>& slices) {
    std::string key = concat(name_of(spec.dtype), ' ', spec.recipe.axis);
    for (const SourceSlice& slice : slices) {
      key += concat(' ', static_cast<const void*>(slice.data));
      for (int i = 0; i < slice.rank; ++i) key += concat(' ', slice.begin[i], ':', slice.extent[i]);
    }
    return key;
  }

  Checkpoint checkpoint_;
  ByName<TensorView> views_;
  std::vector<Buffer> buffers_;
  ByName<void*> assembled_;
  std::set<std::pair<const uint8_t*, size_t>> mapped_;
  int64_t bytes_mapped_ = 0;
  int64_t bytes_allocated_ = 0;
};

Weights::Weights(const EngineFile& engine, int rank, Device device, cpu::ThreadPool& pool)
    : impl_(std::make_unique<Impl>(engine, rank, device, pool)) {}
Weights::~Weights() = default;

const TensorView& Weights::view(std::string_view name) const { return impl_->view(name); }
int64_t Weights::bytes_mapped() const { return impl_->bytes_mapped(); }
int64_t Weights::bytes_allocated() const { return impl_->bytes_allocated(); }

}  // namespace inflight::plan
