#include "backend/kv_cache/kv_storage.h"

#include <limits>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/device.h"

namespace inflight::kv_cache {
namespace {

int64_t pool_bytes(int64_t block_bytes, int32_t num_blocks) {
  int64_t bytes = 0;
  check(!__builtin_mul_overflow(block_bytes, int64_t{num_blocks}, &bytes),
        "KV pool too large: ", num_blocks, " blocks of ", block_bytes, " bytes > ",
        std::numeric_limits<int64_t>::max(), " bytes");
  return bytes;
}

}  // namespace

KvStorage::KvStorage(std::vector<LayerSpec> layers, Geometry geometry, DType dtype,
                     int32_t num_blocks, Device device, int32_t num_host_blocks)
    : layers_(std::move(layers)),
      geometry_(geometry),
      dtype_(dtype),
      layout_(layers_, geometry, dtype),
      num_blocks_(num_blocks),
      num_host_blocks_(num_host_blocks) {
  check(!layers_.empty(), "a KV pool needs at least one layer");
  check(num_blocks >= 1 && num_blocks <= geometry.max_pool_blocks(), "KV pool of ", num_blocks,
        " blocks of ", geometry.tokens_per_block(), " tokens: from 1 to ",
        geometry.max_pool_blocks(), " blocks, slots are 32 bit");
  check(num_host_blocks >= 0, "host tier of ", num_host_blocks, " KV blocks: at least 0");
  memory_ = Buffer(pool_bytes(block_bytes(), num_blocks), device);
  const int64_t host_bytes = pool_bytes(block_bytes(), num_host_blocks);
  const bool is_cuda = device.type == DeviceType::kCuda;
  host_memory_ = is_cuda ? Buffer::pinned(host_bytes) : Buffer(host_bytes);
  if (!is_cuda) return;
  const Stream stream(device);
  fill_async(memory_.data(), 0, memory_.bytes(), stream);
  stream.synchronize();
}

const LayerSpec& KvStorage::spec_of(int layer) const {
  check_internal(layer >= 0 && layer < num_layers(), "layer ", layer, " of a KV pool of ",
                 num_layers());
  return layers_[layer];
}

TensorView KvStorage::layer_view(int layer) const {
  const LayerSpec& spec = spec_of(layer);
  TensorView view = TensorView::dense(
      static_cast<std::byte*>(memory_.data()) + layout_.values_offset(layer), dtype_,
      {num_blocks_, 2, spec.num_kv_heads, geometry_.tokens_per_block(), spec.head_size},
      memory_.device());
  view.strides[0] = block_bytes() / static_cast<int64_t>(size_of(dtype_));
  return view;
}

TensorView KvStorage::layer_scales(int layer) const {
  const LayerSpec& spec = spec_of(layer);
  if (scale_place(dtype_) != ScalePlace::kBlock) return {};
  TensorView view = TensorView::dense(
      static_cast<std::byte*>(memory_.data()) + layout_.scales_offset(layer), DType::kFloat32,
      {num_blocks_, 2, spec.num_kv_heads, geometry_.tokens_per_block()}, memory_.device());
  view.strides[0] = block_bytes() / static_cast<int64_t>(sizeof(float));
  return view;
}

std::vector<TensorView> KvStorage::row_views() const {
  std::vector<TensorView> views;
  for (const BlockLayout::Rows& rows : layout_.rows()) {
    views.push_back(TensorView::dense(
        static_cast<std::byte*>(memory_.data()) + rows.offset, DType::kUInt8,
        {num_blocks_, rows.num_rows, geometry_.tokens_per_block(), rows.token_bytes},
        memory_.device()));
    views.back().strides[0] = block_bytes();
  }
  return views;
}

void* KvStorage::block(Tier tier, int32_t block) const {
  const bool is_host = tier == Tier::kHost;
  const int32_t count = is_host ? num_host_blocks_ : num_blocks_;
  check_internal(block >= 0 && block < count, is_host ? "host" : "device", " block ", block, " of ",
                 count);
  const Buffer& memory = is_host ? host_memory_ : memory_;
  return static_cast<std::byte*>(memory.data()) + block * block_bytes();
}

}  // namespace inflight::kv_cache
