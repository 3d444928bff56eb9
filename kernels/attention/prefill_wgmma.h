// The face of the sm_90a kernel of prefill: what it can do, how large its tiles are.
#pragma once

#include <cuda.h>

#include "kernels/attention/attention.h"

namespace inflight::cuda {

/// Whether the kernel can do these sizes: whole blocks fit whole tiles of keys.
bool prefill_wgmma_suits(const AttentionParams& params, const OpContext& context);
void prefill_wgmma_bf16(const AttentionParams& params, OpContext& context);
void prefill_wgmma_fp16(const AttentionParams& params, OpContext& context);

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
struct PrefillShape<256> {
  static constexpr int kWarpgroups = 2, kTileKeys = 64, kStages = 2, kQueryStages = 1;
  static constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;
};

/// Boxes of 64 elements of the head.
struct PrefillMaps {
  CUtensorMap q;      // [tile_tokens, group, 64] of [T, heads, head size]
  CUtensorMap cache;  // [keys of a block and tile, 64] of [blocks, 2 * kv heads * keys, head size]
};
PrefillMaps prefill_maps(const AttentionParams& params, int tile_rows, int tile_keys);

}  // namespace inflight::cuda
