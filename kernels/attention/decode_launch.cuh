// Sizes and starts the decode kernel: one file for each dtype instantiates it.
#pragma once

#include <algorithm>
#include <numbers>

#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/decode.cuh"

namespace inflight::cuda::decode {

void launch_bfloat16(const AttentionParams& params, OpContext& context);
void launch_float16(const AttentionParams& params, OpContext& context);

inline constexpr int64_t kMaxSequences = 2048;  // their running sums lie in shared memory
inline constexpr int kMaxBlocksPerMultiprocessor = 4;
inline constexpr int kNumWarps = 8;

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

/// Shared memory that thread blocks of one multiprocessor can have together. (CUDA C++ Programming
/// Guide, "Compute capabilities".)
inline size_t shared_bytes_of_multiprocessor(int compute_capability) {
  if (compute_capability >= 90 && compute_capability < 120) return 228 << 10;
  if (compute_capability == 80 || compute_capability == 87) return 164 << 10;
  return 100 << 10;
}
/// That a thread block costs beside its own.
inline constexpr size_t kReservedSharedBytes = 1 << 10;

/// The shared memory of a launch and what depends on it.
struct Layout {
  int num_stages, merge_buffers;
  size_t shared_bytes;
};
/// As many stages as pay and fit. Without any, `shared_bytes` is more than a thread block can have.
inline Layout layout_of(const AttentionParams& params, int compute_capability, int num_warps,
                        size_t ring_bytes) {
  const auto size = static_cast<size_t>(params.head_size);
  const int heads = head_groups(params).heads;
  const size_t most = shared_bytes_of_multiprocessor(compute_capability) - kReservedSharedBytes;
  const size_t stage = num_warps * 2 * kTileKeys * (size + 8) * 2;
  const size_t merge = num_warps * heads * (size + 4 + 2) * sizeof(float);
  const size_t rest = Sums::bytes(static_cast<int>(params.kv_lengths.shape[0]));
  int stages = std::clamp(static_cast<int>(ring_bytes / stage), 1, kMaxStages);
  while (stages > 1 && stages * stage + merge + rest > most) --stages;
  const int buffers = stages * stage + 2 * merge + rest <= most ? 2 : 1;
  return {stages, buffers, stages * stage + buffers * merge + rest};
}

struct Tuning {
  size_t ring_bytes = 150 << 10;
  int max_blocks_per_multiprocessor = 1;
};

template <typename Kernel>
void launch_decode(const AttentionParams& params, OpContext& context, Tuning tuning = {}) {
  const HeadGroups groups = head_groups(params);
  const auto [stages, merge_buffers, shared] =
      layout_of(params, context.compute_capability, Kernel::kWarps, tuning.ring_bytes);
  const auto fitting = static_cast<int>(shared_bytes_of_multiprocessor(context.compute_capability) /
                                        (shared + kReservedSharedBytes));
  const int blocks =
      std::min(kNumCounters, context.num_multiprocessors *
                                 std::clamp(fitting, 1, tuning.max_blocks_per_multiprocessor));
  const TensorView& cache = params.kv_cache;
  const DecodeArgs args = {
      .q = params.q.data,
      .cache = cache.data,
      .y = params.y.data,
      .block_tables = params.block_tables.as<int32_t>(),
      .query_starts = params.query_starts.as<int32_t>(),
      .kv_lengths = params.kv_lengths.as<int32_t>(),
      .block_stride = cache.strides[0],
      .value_offset = cache.strides[1],
      .tiles_per_block = Divisor(cache.shape[3] / kTileKeys),
      .num_sequences = static_cast<int32_t>(params.kv_lengths.shape[0]),
      .max_blocks = static_cast<int32_t>(params.block_tables.shape[1]),
      .num_heads = static_cast<int32_t>(params.num_heads),
      .num_groups = static_cast<int32_t>(params.num_kv_heads * groups.per_kv_head),
      .heads_per_kv_head = static_cast<int32_t>(params.num_heads / params.num_kv_heads),
      .groups_per_kv_head = Divisor(groups.per_kv_head),
      .heads_per_group = groups.heads,
      .num_stages = stages,
      .merge_buffers = merge_buffers,
      .scale = params.scale * std::numbers::log2e_v<float>,
      .partial_outputs = static_cast<float*>(context.workspace.data),
      .partial_states =
          reinterpret_cast<float2*>(static_cast<float*>(context.workspace.data) +
                                    int64_t{2} * blocks * groups.heads * params.head_size),
      .counters = context.counters};
  allow_shared_bytes(decode_kernel<Kernel>, shared);
  launch(decode_kernel<Kernel>,
         {dim3(static_cast<unsigned>(blocks)), dim3(Kernel::kThreads), shared}, context, args);
}

template <typename T>
void launch_decode_of(const AttentionParams& params, OpContext& context) {
  const bool is_wide = head_groups(params).heads > 8;
  const auto with_size = [&]<int kHeadSize>() {
    if constexpr (kHeadSize <= 128) {
      if (is_wide) return launch_decode<DecodeKernel<T, kHeadSize, 2, kNumWarps>>(params, context);
    }
    launch_decode<DecodeKernel<T, kHeadSize, 1, kNumWarps>>(params, context);
  };
  switch (params.head_size) {
    case 64:
      return with_size.template operator()<64>();
    case 80:
      return with_size.template operator()<80>();
    case 96:
      return with_size.template operator()<96>();
    case 128:
      return with_size.template operator()<128>();
    default:
      return with_size.template operator()<256>();
  }
}

}  // namespace inflight::cuda::decode
