// The face of the sm_90a kernel of prefill: what it can do, how large its tiles are.
#pragma once

#include <cuda.h>

#include "kernels/attention/attention.h"

namespace inflight::cuda {

/// Whether the kernel can do these sizes: whole blocks fit whole tiles of keys.
bool prefill_wgmma_suits(const AttentionParams& params, const OpContext& context);
/// For parts of tiles, where tiles are too few for the device.
size_t prefill_wgmma_workspace_bytes(const AttentionParams& params, const OpContext& context);
void prefill_wgmma_bf16(const AttentionParams& params, OpContext& context);
void prefill_wgmma_fp16(const AttentionParams& params, OpContext& context);
void prefill_wgmma_window_bf16(const AttentionParams& params, OpContext& context);
void prefill_wgmma_window_fp16(const AttentionParams& params, OpContext& context);

/// Tiles of a head size.
template <int kHeadSize>
struct PrefillShape;
template <>
struct PrefillShape<64> {
  static constexpr int kWarpgroups = 3, kTileKeys = 128, kStages = 3, kQueryStages = 2;
  static constexpr int kConsumerRegisters = 160, kProducerRegisters = 32;
};
template <>
struct PrefillShape<128> {
  static constexpr int kWarpgroups = 2, kTileKeys = 128, kStages = 2, kQueryStages = 2;
  static constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;
};
template <>
struct PrefillShape<80> : PrefillShape<128> {};
template <>
struct PrefillShape<96> : PrefillShape<128> {};
template <>
struct PrefillShape<256> {
  static constexpr int kWarpgroups = 2, kTileKeys = 64, kStages = 2, kQueryStages = 1;
  static constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;
};

/// Whether to take the kernel that can divide tiles, as far as the host knows: all rows but one for
/// each other sequence may be one's, over a prefix of any length.
bool prefill_divides(const AttentionParams& params, const OpContext& context, int tile_rows);
/// Parts of tiles are at most so many where a tile has more than one.
inline int prefill_max_parts(const OpContext& context) { return 4 * context.num_multiprocessors; }
/// Outputs of a part in float32, with two sums and maxima for each 4 lanes.
inline size_t prefill_part_bytes(int64_t head_size) {
  const int rows = 64 * (head_size == 64 ? PrefillShape<64>::kWarpgroups : 2);
  return static_cast<size_t>(rows) * 2 * (head_size / 2 + 4) * sizeof(float);
}

/// Boxes of 64 elements of the head.
struct PrefillMaps {
  CUtensorMap q;      // [tile_tokens, group, 64] of [T, heads, head size]
  CUtensorMap cache;  // [keys of a block and tile, 64] of [blocks, 2 * kv heads * keys, head size]
};
PrefillMaps prefill_maps(const AttentionParams& params, int tile_rows, int tile_keys);

}  // namespace inflight::cuda
