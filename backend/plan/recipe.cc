#include "backend/plan/recipe.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"

namespace inflight::plan {

namespace {
constexpr int64_t kChunkElements = 1 << 16;  // work of one thread at a time

/// `source` may have any address, as tensors in a file do.
template <typename To, typename From>
INFLIGHT_VECTORIZED void convert(const uint8_t* source, To* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, source + i * sizeof(From), sizeof(From));
    out[i] = cpu::from_float<To>(cpu::to_float(value));
  }
}

void copy_elements(const uint8_t* source, DType from, uint8_t* out, DType to, int64_t count) {
  if (from == to) {
    std::memcpy(out, source, static_cast<size_t>(count) * size_of(to));
    return;
  }
  cpu::dispatch_floating(to, [&](auto to_tag) {
    cpu::dispatch_floating(from, [&](auto from_tag) {
      using To = decltype(to_tag);
      convert<To, decltype(from_tag)>(source, reinterpret_cast<To*>(out), count);
    });
  });
}

std::string printed(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += concat(i ? ", " : "", shape[i]);
  return text + "]";
}

SourceSlice resolve_source(const RecipeSource& source, DType dtype, const Checkpoint& checkpoint,
                           std::string_view weight_name) {
  const std::string weight = concat("weight ", weight_name);
  const std::string who = concat(weight, ": ", source.tensor, ": ");
  const Checkpoint::Tensor tensor = checkpoint.find(source.tensor, weight);
  const std::vector<int64_t>& shape = tensor.stored->shape;
  SourceSlice slice;
  slice.file = tensor.file;
  slice.data = tensor.data();
  slice.rank = static_cast<int>(shape.size());
  const auto stored = tensor.stored->dtype;
  if (!stored || (*stored != dtype && !(is_floating(*stored) && is_floating(dtype)))) {
    throw Error(
        ErrorCode::kUnsupported,
        concat(who, "cannot be cast from ", tensor.stored->stored_dtype, " to ", name_of(dtype)));
  }
  slice.dtype = *stored;
  check(shape.size() <= kMaxRank, who, "has ", shape.size(), " axes, limit ", kMaxRank);
  check(source.slice.empty() || source.slice.size() == shape.size(), who, "the slice has ",
        source.slice.size(), " axes, the tensor is ", printed(shape));
  for (int i = 0; i < slice.rank; ++i) {
    const Range range = source.slice.empty() ? Range{0, shape[i]} : source.slice[i];
    check(range.end <= shape[i], who, "slice [", range.begin, ", ", range.end, ") of axis ", i,
          " exceeds the tensor's ", printed(shape));
    slice.shape[i] = shape[i];
    slice.begin[i] = range.begin;
    slice.extent[i] = range.end - range.begin;
  }
  return slice;
}
}  // namespace

int64_t SourceSlice::num_elements() const {
  int64_t count = 1;
  for (int i = 0; i < rank; ++i) count *= extent[i];
  return count;
}

int64_t SourceSlice::stride(int axis) const {
  int64_t stride = 1;
  for (int i = axis + 1; i < rank; ++i) stride *= shape[i];
  return stride;
}

int64_t SourceSlice::first() const {
  int64_t offset = 0;
  for (int i = 0; i < rank; ++i) offset += begin[i] * stride(i);
  return offset;
}

bool SourceSlice::is_contiguous() const {
  bool below_is_whole = true;  // all axes after this one
  for (int i = rank - 1; i >= 0; --i) {
    if (!below_is_whole && extent[i] > 1) return false;
    below_is_whole = below_is_whole && extent[i] == shape[i];
  }
  return true;
}

std::vector<SourceSlice> resolve_recipe(const WeightSpec& weight, std::string_view name,
                                        const Checkpoint& checkpoint) {
  const int axis = weight.recipe.axis;
  int64_t covered = 0;
  std::vector<SourceSlice> slices;
  for (const RecipeSource& source : weight.recipe.sources) {
    const std::string who = concat("weight ", name, ": ", source.tensor, ": ");
    const SourceSlice slice = resolve_source(source, weight.dtype, checkpoint, name);
    check(slice.rank == static_cast<int>(weight.shape.size()), who, "has ", slice.rank,
          " axes, the weight is ", printed(weight.shape));
    for (int i = 0; i < slice.rank; ++i) {
      check(i == axis || slice.extent[i] == weight.shape[i], who, "gives ", slice.extent[i],
            " on axis ", i, ", the weight is ", printed(weight.shape));
    }
    covered += slice.extent[axis];
    slices.push_back(slice);
  }
  check(covered == weight.shape[axis], "weight ", name, ": the sources give ", covered, " on axis ",
        axis, ", the weight is ", printed(weight.shape));
  return slices;
}

const uint8_t* find_in_place(const WeightSpec& weight, const std::vector<SourceSlice>& slices) {
  // Several sources may lie one after the other in the file, as gate and up often do.
  for (int i = 0; i < weight.recipe.axis; ++i) {
    if (slices.size() > 1 && weight.shape[i] != 1) return nullptr;
  }
  const size_t element = size_of(weight.dtype);
  const uint8_t* begin = nullptr;
  const uint8_t* end = nullptr;
  for (const SourceSlice& slice : slices) {
    if (slice.dtype != weight.dtype || !slice.is_contiguous()) return nullptr;
    const uint8_t* data = slice.data + static_cast<size_t>(slice.first()) * element;
    if (begin && data != end) return nullptr;
    if (!begin) begin = data;
    end = data + static_cast<size_t>(slice.num_elements()) * element;
  }
  return reinterpret_cast<uintptr_t>(begin) % element == 0 && begin != end ? begin : nullptr;
}

void assemble(const WeightSpec& weight, const std::vector<SourceSlice>& slices, void* out,
              cpu::ThreadPool& pool) {
  const int rank = static_cast<int>(weight.shape.size());
  const int axis = weight.recipe.axis;
  std::array<int64_t, kMaxRank> out_stride{};
  out_stride[rank - 1] = 1;
  for (int i = rank - 2; i >= 0; --i) out_stride[i] = out_stride[i + 1] * weight.shape[i + 1];
  auto* const out_bytes = static_cast<uint8_t*>(out);
  int64_t placed = 0;  // on `axis`
  for (const SourceSlice& slice : slices) {
    // Runs are contiguous on both sides: the last axes that both take whole, and one more.
    int inner = rank - 1;
    int64_t run = slice.extent[inner];
    while (inner > 0 && slice.extent[inner] == slice.shape[inner] &&
           slice.extent[inner] == weight.shape[inner]) {
      run *= slice.extent[--inner];
    }
    const int64_t chunks = (run + kChunkElements - 1) / kChunkElements;  // of a run
    const int64_t num_runs = run == 0 ? 0 : slice.num_elements() / run;
    const int64_t out_first = placed * out_stride[axis];
    const auto copy = [&](int64_t first_chunk, int64_t last_chunk, int) {
      for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
        int64_t index = chunk / chunks;
        int64_t from = slice.first();
        int64_t to = out_first;
        for (int i = inner - 1; i >= 0; --i) {
          from += index % slice.extent[i] * slice.stride(i);
          to += index % slice.extent[i] * out_stride[i];
          index /= slice.extent[i];
        }
        const int64_t skip = chunk % chunks * kChunkElements;
        copy_elements(slice.data + static_cast<size_t>(from + skip) * size_of(slice.dtype),
                      slice.dtype,
                      out_bytes + static_cast<size_t>(to + skip) * size_of(weight.dtype),
                      weight.dtype, std::min(run - skip, kChunkElements));
      }
    };
    pool.parallel_for(num_runs * chunks, copy, std::max<int64_t>(1, kChunkElements / (run + 1)));
    placed += slice.extent[axis];
  }
}

void pack(const SourceSlice& slice, int64_t first, int64_t count, uint8_t* out) {
  const size_t element = size_of(slice.dtype);
  int inner = slice.rank - 1;
  int64_t run = slice.extent[inner];  // elements side by side in the file
  while (inner > 0 && slice.extent[inner] == slice.shape[inner]) run *= slice.extent[--inner];
  for (const int64_t end = first + count; first < end;) {
    int64_t index = first / run;
    const int64_t skip = first - index * run;
    const int64_t length = std::min(run - skip, end - first);
    int64_t from = slice.first() + skip;
    for (int i = inner - 1; i >= 0; --i) {
      from += index % slice.extent[i] * slice.stride(i);
      index /= slice.extent[i];
    }
    const size_t bytes = static_cast<size_t>(length) * element;
    std::memcpy(out, slice.data + static_cast<size_t>(from) * element, bytes);
    out += bytes;
    first += length;
  }
}

void release_pages(const std::vector<SourceSlice>& slices) {
  for (const SourceSlice& slice : slices) {
    if (slice.num_elements() == 0) continue;
    int64_t last = slice.first();
    for (int i = 0; i < slice.rank; ++i) last += (slice.extent[i] - 1) * slice.stride(i);
    const size_t base = static_cast<size_t>(slice.data - slice.file->bytes().data());
    slice.file->release(base + static_cast<size_t>(slice.first()) * size_of(slice.dtype),
                        base + static_cast<size_t>(last + 1) * size_of(slice.dtype));
  }
}

}  // namespace inflight::plan
