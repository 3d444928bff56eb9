// Sizes and starts the decode kernel: a file for each dtype, with and without windows,
// instantiates it.
#pragma once

#include <algorithm>
#include <numbers>
#include <type_traits>

#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/decode_alone.cuh"
#include "kernels/attention/decode_kernel.cuh"
#include "kernels/attention/decode_ring.cuh"
#include "kernels/attention/decode_short.cuh"
#include "kernels/core/cuda/tensor_map.h"

namespace inflight::cuda::decode {

/// `cos_sin` is null, or params.q are rows of qkv (attention.h, cuda::attention_of_qkv).
void launch_bfloat16(const AttentionParams& params, const TensorView* cos_sin, OpContext& context);
void launch_float16(const AttentionParams& params, const TensorView* cos_sin, OpContext& context);
/// The same with a window.
void launch_window_bfloat16(const AttentionParams& params, const TensorView* cos_sin,
                            OpContext& context);
void launch_window_float16(const AttentionParams& params, const TensorView* cos_sin,
                           OpContext& context);

inline constexpr int64_t kMaxSequences = 2048;  // their running sums lie in shared memory
inline constexpr int kMaxBlocksPerMultiprocessor = 4;

/// How the query heads of a kv head are divided among passes over its keys and values.
struct HeadGroups {
  int per_kv_head;  // passes
  int heads;        // of each; the last may have fewer
};
inline HeadGroups head_groups(const AttentionParams& params) {
  const auto heads = static_cast<int>(params.num_heads / params.num_kv_heads);
  const int most = params.head_size <= 128 ? 16 : 8;
  const int per_kv_head = (heads + most - 1) / most;
  return {per_kv_head, (heads + per_kv_head - 1) / per_kv_head};
}

/// Warps of a thread block: as many as leave registers for those of the kernels before and after;
/// or, for few items, which have parts of a kernel's time anyway, as many as there is room for.
inline constexpr int num_warps(int head_size, bool is_wide, bool are_few) {
  if (head_size > 128 || is_wide) return 8;
  return head_size <= 96 || are_few ? 12 : 8;
}
/// Of any kernel of these heads.
inline constexpr int most_warps(int head_size, bool is_wide) {
  return head_size == 64 && !is_wide ? 16 : num_warps(head_size, is_wide, true);
}

/// Shared memory that a thread block can have. (CUDA C++ Programming Guide, "Compute
/// capabilities".)
inline size_t most_shared_bytes(int compute_capability) {
  if (compute_capability >= 90 && compute_capability < 120) return 227 << 10;
  if (compute_capability == 80 || compute_capability == 87) return 163 << 10;
  return 99 << 10;
}

/// Of a thread block.
inline size_t shared_bytes(const AttentionParams& params) {
  const int heads = head_groups(params).heads;
  const int warps = most_warps(static_cast<int>(params.head_size), heads > 8);
  return 2 * warps * heads * part_bytes(static_cast<int>(params.head_size)) +
         Sums::bytes(static_cast<int>(params.kv_lengths.shape[0]));
}

struct Tuning {
  int blocks_per_multiprocessor = 1;
  int prefetch_tiles = 8;
};

/// Of a launch of so many thread blocks.
inline DecodeArgs decode_args(const AttentionParams& params, const TensorView* cos_sin,
                              const OpContext& context, int blocks, Tuning tuning) {
  const HeadGroups groups = head_groups(params);
  const auto sequences = static_cast<int>(params.kv_lengths.shape[0]);
  const TensorView& cache = params.kv_cache;
  const int64_t longest = params.block_tables.shape[1] * cache.shape[3];
  const auto sinks = static_cast<int32_t>(std::min(params.num_sinks, longest));
  return {
      .q = params.q.data,
      .cache = cache.data,
      .y = params.y.data,
      .cos_sin = cos_sin == nullptr ? nullptr : cos_sin->as<float>(),
      .block_tables = params.block_tables.as<int32_t>(),
      .query_starts = params.q.shape[0] == sequences ? nullptr : params.query_starts.as<int32_t>(),
      .kv_lengths = params.kv_lengths.as<int32_t>(),
      .block_stride = cache.strides[0],
      .value_offset = cache.strides[1],
      .tiles_per_block = Divisor(cache.shape[3] / kTileKeys),
      .num_sequences = sequences,
      .max_blocks = static_cast<int32_t>(params.block_tables.shape[1]),
      .num_heads = static_cast<int32_t>(params.num_heads),
      .num_kv_heads = static_cast<int32_t>(params.num_kv_heads),
      .num_groups = static_cast<int32_t>(params.num_kv_heads * groups.per_kv_head),
      .heads_per_kv_head = static_cast<int32_t>(params.num_heads / params.num_kv_heads),
      .groups_per_kv_head = Divisor(groups.per_kv_head),
      .heads_per_group = groups.heads,
      .quads_per_group = Divisor(groups.heads * params.head_size / 4),
      .prefetch_tiles = tuning.prefetch_tiles,
      .scale = params.scale * std::numbers::log2e_v<float>,
      .partial_outputs = static_cast<float*>(context.workspace.data),
      .partial_states =
          reinterpret_cast<float2*>(static_cast<float*>(context.workspace.data) +
                                    int64_t{2} * blocks * groups.heads * params.head_size),
      .counters = context.counters,
      .window = static_cast<int32_t>(std::min(params.window, longest)),
      .num_sinks = sinks,
      .sink_tiles = (sinks + kTileKeys - 1) / kTileKeys,
      // Rows of a prompt whose logits are all wanted are sequences of one row that share a cache.
      .is_cache_new = !params.query_starts || params.q.shape[0] != sequences,
      .zero = 0,
      .blocks_may_wait = context.grids_may_wait};
}

template <typename Kernel>
void launch_decode(const AttentionParams& params, const TensorView* cos_sin, OpContext& context,
                   Tuning tuning = {}) {
  const size_t shared =
      Kernel::shared_bytes(static_cast<int>(params.kv_lengths.shape[0]), head_groups(params).heads);
  const int blocks =
      std::min(kNumCounters, context.num_multiprocessors * tuning.blocks_per_multiprocessor);
  const DecodeArgs args = decode_args(params, cos_sin, context, blocks, tuning);
  constexpr size_t kMostDeclared = 4u << 10;
  allow_shared_bytes(decode_kernel<Kernel>, shared + kMostDeclared);
  launch(decode_kernel<Kernel>,
         {dim3(static_cast<unsigned>(blocks)), dim3(Kernel::kThreads), shared}, context, args);
}

inline bool are_few(const AttentionParams& params, const OpContext& context) {
  return params.kv_lengths.shape[0] * params.num_kv_heads * head_groups(params).per_kv_head <=
         context.num_multiprocessors;
}

/// Whether a kernel with rings can do it.
template <typename Kernel>
bool has_room_for_ring(const AttentionParams& params, const OpContext& context) {
  constexpr size_t kMostDeclared = 2u << 10;
  const HeadGroups groups = head_groups(params);
  return context.compute_capability == 90 && groups.heads <= 8 &&
         Kernel::shared_bytes(static_cast<int>(params.kv_lengths.shape[0]), groups.heads) +
                 kMostDeclared <=
             most_shared_bytes(context.compute_capability);
}

/// The cache as [blocks][key, value][pieces][kv heads * tokens][RingTile::kWidth], in boxes of
/// RingTile.
template <int kHeadSize>
CUtensorMap ring_map(const TensorView& cache) {
  using Tile = RingTile<kHeadSize>;
  if constexpr (Tile::kIsPlain) {
    return {};  // copied without one
  } else {
    const auto bytes = [](int64_t elements) { return static_cast<cuuint64_t>(2 * elements); };
    return make_tensor_map<5>(
        {cache.data,
         cache.dtype,
         {Tile::kWidth, static_cast<cuuint64_t>(cache.shape[2] * cache.shape[3]), Tile::kPieces, 2,
          static_cast<cuuint64_t>(cache.shape[0])},
         {bytes(kHeadSize), bytes(Tile::kWidth), bytes(cache.strides[1]), bytes(cache.strides[0])},
         {Tile::kWidth, Tile::kBoxKeys, Tile::kPieces, 2, 1},
         Tile::kWidth == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B});
  }
}

template <typename Kernel>
void launch_ring(const AttentionParams& params, const TensorView* cos_sin, OpContext& context) {
  const size_t shared =
      Kernel::shared_bytes(static_cast<int>(params.kv_lengths.shape[0]), head_groups(params).heads);
  const int blocks = std::min(kNumCounters, context.num_multiprocessors);
  allow_shared_bytes(ring_kernel<Kernel>, shared);
  launch(ring_kernel<Kernel>, {dim3(static_cast<unsigned>(blocks)), dim3(Kernel::kThreads), shared},
         context, decode_args(params, cos_sin, context, blocks, {}),
         ring_map<Kernel::kHeadSize>(params.kv_cache));
}

/// Whether AloneKernel can do what a kernel with rings can.
inline bool is_alone(const AttentionParams& params, const OpContext& context) {
  const int64_t items = params.num_kv_heads * head_groups(params).per_kv_head;
  return params.kv_lengths.shape[0] == 1 && params.q.shape[0] == 1 && params.query_starts &&
         params.window == 0 && context.grids_may_wait &&
         items <= std::min(8, context.num_multiprocessors / 16);
}

template <typename Kernel>
void launch_alone(const AttentionParams& params, OpContext& context) {
  const HeadGroups groups = head_groups(params);
  const int blocks = std::min(kNumCounters, context.num_multiprocessors);
  const auto items = static_cast<unsigned>(params.num_kv_heads * groups.per_kv_head);
  const size_t shared = Kernel::shared_bytes(1, groups.heads);
  allow_shared_bytes(alone_kernel<Kernel>, shared);
  launch(alone_kernel<Kernel>,
         {dim3(items, static_cast<unsigned>(blocks) / items), dim3(Kernel::kThreads), shared},
         context, decode_args(params, nullptr, context, blocks, {}),
         ring_map<Kernel::kHeadSize>(params.kv_cache));
}

/// Warps and tiles of each, of a kernel with rings that does not append.
struct RingShape {
  int warps, tiles;
};
inline constexpr RingShape ring_shape(int head_size) {
  switch (head_size) {
    case 64:
    case 80:
      return {12, 3};
    case 96:
      return {12, 2};
    case 128:
      return {8, 3};
    default:
      return {4, 2};
  }
}
/// Where such a kernel is ahead of registers, measured on an H200: with heads of 64 and 128 where
/// thread blocks share sequences, which they do if these are few or some much longer than others.
inline bool takes_ring(const AttentionParams& params, const OpContext& context) {
  int64_t longest = params.block_tables.shape[1] * params.kv_cache.shape[3];  // seen by a row
  if (params.window > 0) longest = std::min(longest, params.window);
  const bool are_few_keys = are_few(params, context) && params.kv_lengths.shape[0] * longest < 8192;
  const bool may_be_shared = are_few(params, context) || longest > 4096;
  switch (params.head_size) {
    case 64:
      return may_be_shared && !are_few_keys;
    case 80:
      return !are_few_keys;
    case 128:
      return may_be_shared;
    default:
      return true;
  }
}

template <typename T, bool kWindow>
void launch_decode_of(const AttentionParams& params, OpContext& context) {
  const bool is_wide = head_groups(params).heads > 8;
  const auto with_size = [&]<int kHeadSize>() {
    if constexpr (kHeadSize <= 128) {
      constexpr int kWarps = num_warps(kHeadSize, true, false);
      if (is_wide)
        return launch_decode<DecodeKernel<T, kHeadSize, 2, kWarps, kWindow>>(params, nullptr,
                                                                             context);
    }
    constexpr RingShape kShape = ring_shape(kHeadSize);
    using Ring = RingKernel<T, kHeadSize, kShape.warps, kShape.tiles, kWindow, false>;
    if (takes_ring(params, context) && has_room_for_ring<Ring>(params, context)) {
      if constexpr (!kWindow) {
        constexpr RingShape kAlone = kHeadSize == 256 ? RingShape{8, 1} : kShape;
        using Alone = AloneKernel<T, kHeadSize, kAlone.warps, kAlone.tiles>;
        if (is_alone(params, context) && has_room_for_ring<Alone>(params, context))
          return launch_alone<Alone>(params, context);
      }
      return launch_ring<Ring>(params, nullptr, context);
    }
    constexpr int kFew = num_warps(kHeadSize, false, true);
    constexpr int kMany = num_warps(kHeadSize, false, false);
    if constexpr (kFew != kMany) {
      if (are_few(params, context))
        return launch_decode<DecodeKernel<T, kHeadSize, 1, kFew, kWindow>>(params, nullptr,
                                                                           context);
    }
    launch_decode<DecodeKernel<T, kHeadSize, 1, kMany, kWindow>>(params, nullptr, context);
  };
  with_head_size(params.head_size, with_size);
}

/// Whether ShortKernel has room for a thread block to each item at once, and none is long.
inline bool are_short(const AttentionParams& params, const OpContext& context) {
  constexpr int64_t kMostKeys = 512;
  const int64_t sequences = params.kv_lengths.shape[0];
  return params.q.shape[0] == sequences && params.window == 0 && head_groups(params).heads <= 8 &&
         params.block_tables.shape[1] * params.kv_cache.shape[3] <= kMostKeys &&
         sequences * params.num_kv_heads <= int64_t{2} * context.num_multiprocessors;
}

template <typename Kernel>
void launch_short(const AttentionParams& params, const TensorView& cos_sin, OpContext& context) {
  const dim3 grid(static_cast<unsigned>(params.num_kv_heads),
                  static_cast<unsigned>(params.kv_lengths.shape[0]));
  launch(short_kernel<Kernel>,
         {grid, dim3(Kernel::kThreads), Kernel::shared_bytes(head_groups(params).heads)}, context,
         decode_args(params, &cos_sin, context, context.num_multiprocessors, {}));
}

/// Where a kernel that takes qkv is ahead of two. Few items of heads of 128 are not: their many
/// warps have no registers for it.
inline bool takes_qkv(const AttentionParams& params, const OpContext& context) {
  if (head_groups(params).heads > 8) return false;
  return params.head_size == 64 ||
         (params.head_size == 128 && (!are_few(params, context) || are_short(params, context)));
}

template <typename T, bool kWindow>
void launch_decode_of_qkv(const AttentionParams& params, const TensorView& cos_sin,
                          OpContext& context) {
  const int64_t sequences = params.kv_lengths.shape[0];
  const auto with_size = [&]<int kHeadSize>() {
    if constexpr (!kWindow) {
      using Short = std::conditional_t<kHeadSize == 64, ShortKernel<T, kHeadSize, 4, 3, 168>,
                                       ShortKernel<T, kHeadSize, 6, 1, 168>>;
      if (are_short(params, context)) return launch_short<Short>(params, cos_sin, context);
    }
    // Measured on an H200: rings are ahead where sequences are neither few nor many. Those of 128
    // leave room for a kernel of 104 KB beside them, as linears of so many rows may be.
    using Ring = RingKernel<T, kHeadSize, kHeadSize == 64 ? 8 : 4, 3, kWindow, true>;
    if (sequences <= (kHeadSize == 64 ? 128 : 64) && !are_few(params, context) &&
        has_room_for_ring<Ring>(params, context))
      return launch_ring<Ring>(params, &cos_sin, context);
    if constexpr (kHeadSize == 64) {
      // Many short sequences are many first and last tiles: whole steps of 256 of a 1B 1.92 ms for
      // 1.98 with 12 warps.
      if (sequences > 128)
        return launch_decode<DecodeKernel<T, kHeadSize, 1, 16, kWindow, true>>(params, &cos_sin,
                                                                               context);
    }
    constexpr int kWarps = num_warps(kHeadSize, false, false);
    launch_decode<DecodeKernel<T, kHeadSize, 1, kWarps, kWindow, true>>(params, &cos_sin, context);
  };
  params.head_size == 64 ? with_size.template operator()<64>()
                         : with_size.template operator()<128>();
}

/// Either, as `cos_sin` is null or not.
template <typename T, bool kWindow>
void launch_of(const AttentionParams& params, const TensorView* cos_sin, OpContext& context) {
  if (cos_sin == nullptr) return launch_decode_of<T, kWindow>(params, context);
  launch_decode_of_qkv<T, kWindow>(params, *cos_sin, context);
}

}  // namespace inflight::cuda::decode
