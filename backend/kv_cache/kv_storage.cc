#include "backend/kv_cache/kv_storage.h"

#include <limits>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/device.h"

namespace inflight::kv_cache {
namespace {

constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max();

int64_t multiply(int64_t a, int64_t b) {
  int64_t product = 0;
  check(!__builtin_mul_overflow(a, b, &product), "KV pool too large: ", a, " * ", b, " > ",
        kMaxBytes, " bytes");
  return product;
}

/// Elements of one layer in one block, keys and values.
int64_t layer_elements(const LayerSpec& layer, const Geometry& geometry) {
  check(layer.num_kv_heads >= 1, "num_kv_heads ", layer.num_kv_heads, " < 1");
  check(layer.head_size >= 1, "head_size ", layer.head_size, " < 1");
  return multiply(multiply(2 * int64_t{layer.num_kv_heads}, geometry.tokens_per_block()),
                  layer.head_size);
}

}  // namespace

int64_t bytes_per_block(std::span<const LayerSpec> layers, const Geometry& geometry, DType dtype) {
  int64_t bytes = 0;
  for (const LayerSpec& layer : layers) {
    const int64_t layer_bytes = multiply(layer_elements(layer, geometry), size_of(dtype));
    check(!__builtin_add_overflow(bytes, layer_bytes, &bytes), "a KV block of ", layers.size(),
          " layers is larger than ", kMaxBytes, " bytes");
  }
  return bytes;
}

KvStorage::KvStorage(std::vector<LayerSpec> layers, Geometry geometry, DType dtype,
                     int32_t num_blocks, Device device)
    : layers_(std::move(layers)), geometry_(geometry), dtype_(dtype), num_blocks_(num_blocks) {
  check(!layers_.empty(), "a KV pool needs at least one layer");
  check(num_blocks >= 1 && num_blocks <= geometry.max_pool_blocks(), "KV pool of ", num_blocks,
        " blocks of ", geometry.tokens_per_block(), " tokens: from 1 to ",
        geometry.max_pool_blocks(), " blocks, slots are 32 bit");
  block_bytes_ = bytes_per_block(layers_, geometry, dtype);
  int64_t offset = 0;
  for (const LayerSpec& layer : layers_) {
    layer_offsets_.push_back(offset);
    offset += layer_elements(layer, geometry);
  }
  memory_ = Buffer(multiply(block_bytes_, num_blocks), device);
  if (device.type == DeviceType::kCuda) {
    const Stream stream(device);
    fill_async(memory_.data(), 0, memory_.bytes(), stream);
    stream.synchronize();
  }
}

TensorView KvStorage::layer_view(int layer) const {
  check_internal(layer >= 0 && layer < num_layers(), "layer ", layer, " of a KV pool of ",
                 num_layers());
  const LayerSpec& spec = layers_[layer];
  auto* data = static_cast<std::byte*>(memory_.data()) + layer_offsets_[layer] * size_of(dtype_);
  TensorView view = TensorView::dense(
      data, dtype_,
      {num_blocks_, 2, spec.num_kv_heads, geometry_.tokens_per_block(), spec.head_size},
      memory_.device());
  view.strides[0] = block_bytes_ / static_cast<int64_t>(size_of(dtype_));
  return view;
}

}  // namespace inflight::kv_cache
