#include <algorithm>
#include <array>

#include "kernels/attention/prefill_wgmma.h"
#include "kernels/core/cuda/tensor_map.h"

namespace inflight::cuda {
namespace {

/// Boxes [box[2], box[1], 64] of `view`, innermost last; columns of 128 bytes are swizzled as wgmma
/// reads them. Strides in bytes, of the outer two.
CUtensorMap tensor_map(const TensorView& view, std::array<cuuint64_t, 3> extents,
                       std::array<cuuint64_t, 2> strides, std::array<cuuint32_t, 3> box) {
  return make_tensor_map<3>({view.data, view.dtype, extents, strides, box});
}

int tile_keys(int64_t head_size) {
  return head_size == 256 ? PrefillShape<256>::kTileKeys : PrefillShape<128>::kTileKeys;
}

}  // namespace

size_t prefill_wgmma_workspace_bytes(const AttentionParams& params, const OpContext& context) {
  return prefill_max_parts(context) * prefill_part_bytes(params.head_size);
}

bool prefill_divides(const AttentionParams& params, const OpContext& context, int tile_rows) {
  const int64_t group = params.num_heads / params.num_kv_heads, tile_tokens = tile_rows / group;
  const int64_t rows = params.q.shape[0] - params.kv_lengths.shape[0] + 1;
  const int64_t tiles = (rows + tile_tokens - 1) / tile_tokens * params.num_kv_heads;
  const int64_t blocks = context.num_multiprocessors;
  const int64_t places = (tiles + blocks - 1) / blocks * blocks;
  // Measured on an H200: 192 tiles for 132 blocks 12 % faster, 320 slower by 5.
  return tiles * 2 < blocks * 3 && places * 10 > tiles * 13;
}

PrefillMaps prefill_maps(const AttentionParams& params, int tile_rows, int tile_keys) {
  const TensorView& cache = params.kv_cache;
  const int64_t group = params.num_heads / params.num_kv_heads, row_bytes = params.head_size * 2;
  const auto u64 = [](int64_t x) { return static_cast<cuuint64_t>(x); };
  const auto u32 = [](int64_t x) { return static_cast<cuuint32_t>(x); };
  return {.q = tensor_map(params.q,
                          {u64(params.head_size), u64(params.num_heads), u64(params.q.shape[0])},
                          {u64(row_bytes), u64(row_bytes * params.num_heads)},
                          {64, u32(group), u32(tile_rows / group)}),
          .cache = tensor_map(cache,
                              {u64(params.head_size), u64(2 * params.num_kv_heads * cache.shape[3]),
                               u64(cache.shape[0])},
                              {u64(row_bytes), u64(cache.strides[0] * 2)},
                              {64, u32(std::min<int64_t>(cache.shape[3], tile_keys)), 1})};
}

bool prefill_wgmma_suits(const AttentionParams& params, const OpContext& context) {
  const int64_t size = params.head_size, block = params.kv_cache.shape[3];
  const int64_t keys = tile_keys(size);
  return context.compute_capability == 90 &&
         (size == 64 || size == 80 || size == 96 || size == 128 || size == 256) &&
         (block % keys == 0 || (keys % block == 0 && block % 8 == 0)) &&
         params.num_heads / params.num_kv_heads <= 64;
}

}  // namespace inflight::cuda
