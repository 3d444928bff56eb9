#include <algorithm>
#include <cstdint>
#include <numbers>

#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/prefill_mma.cuh"
#include "kernels/attention/prefill_tiles.cuh"
#include "kernels/attention/prefill_wgmma.h"

namespace inflight::cuda {
namespace {

bool is_aligned(const TensorView& view) { return reinterpret_cast<uintptr_t>(view.data) % 16 == 0; }

}  // namespace

PrefillArgs prefill_args(const AttentionParams& params, const OpContext& context, int tile_rows) {
  const TensorView& cache = params.kv_cache;
  const int64_t group = params.num_heads / params.num_kv_heads, size = size_of(cache.dtype);
  const int64_t longest = params.block_tables.shape[1] * cache.shape[3];
  return {.q = params.q.data,
          .cache = cache.as<uint8_t>(),
          .y = params.y.data,
          .block_tables = params.block_tables.as<int32_t>(),
          .query_starts = params.query_starts.as<int32_t>(),
          .kv_lengths = params.kv_lengths.as<int32_t>(),
          .counters = context.counters,
          .partials = static_cast<float*>(context.workspace.data),
          .max_parts = 0,
          // Those of one sequence are in order of length: dealt, nobody waits for a number.
          .are_claimed = params.kv_lengths.shape[0] > 1,
          .block_bytes = cache.strides[0] * size,
          .value_bytes = params.num_kv_heads * cache.shape[3] * params.head_size * size,
          .num_sequences = static_cast<int>(params.kv_lengths.shape[0]),
          .max_blocks = static_cast<int>(params.block_tables.shape[1]),
          .tokens_per_block = static_cast<int>(cache.shape[3]),
          .num_kv_heads = static_cast<int>(params.num_kv_heads),
          .group = static_cast<int>(group),
          .tile_tokens = static_cast<int>(tile_rows / group),
          .scale_log2e = params.scale * std::numbers::log2e_v<float>,
          .window = static_cast<int>(std::min(params.window, longest)),
          .num_sinks = static_cast<int>(std::min(params.num_sinks, longest))};
}

int64_t max_prefill_tiles(const AttentionParams& params, int tile_rows) {
  const int64_t tile_tokens = tile_rows / (params.num_heads / params.num_kv_heads);
  const int64_t rows = params.q.shape[0], sequences = params.kv_lengths.shape[0];
  const int64_t chunks = std::min(sequences, rows / 2);  // with two rows or more
  return std::max<int64_t>(1, (rows / tile_tokens + chunks) * params.num_kv_heads);
}

bool prefill_suits(const AttentionParams& params, const OpContext& context) {
  const int64_t size = params.head_size;
  return context.compute_capability >= 80 && params.q.dtype != DType::kFloat32 &&
         params.q.dtype == params.kv_cache.dtype &&
         (size == 64 || size == 80 || size == 96 || size == 128 || size == 256) &&
         params.num_heads / params.num_kv_heads <= kMmaTileRows && is_aligned(params.q) &&
         is_aligned(params.y) && is_aligned(params.kv_cache) && params.kv_cache.strides[0] % 8 == 0;
}

void attention_prefill(const AttentionParams& params, OpContext& context) {
  const bool is_bf16 = params.q.dtype == DType::kBFloat16;
  const bool is_wgmma = prefill_wgmma_suits(params, context);
  if (params.window > 0) {
    if (is_wgmma) {
      return is_bf16 ? prefill_wgmma_window_bf16(params, context)
                     : prefill_wgmma_window_fp16(params, context);
    }
    return is_bf16 ? prefill_mma_window_bf16(params, context)
                   : prefill_mma_window_fp16(params, context);
  }
  if (is_wgmma)
    return is_bf16 ? prefill_wgmma_bf16(params, context) : prefill_wgmma_fp16(params, context);
  return is_bf16 ? prefill_mma_bf16(params, context) : prefill_mma_fp16(params, context);
}

size_t prefill_workspace_bytes(const AttentionParams& largest, const DeviceFacts& facts) {
  const OpContext context = {.num_multiprocessors = facts.num_multiprocessors,
                             .compute_capability = facts.compute_capability};
  return prefill_suits(largest, context) && prefill_wgmma_suits(largest, context)
             ? prefill_wgmma_workspace_bytes(largest, context)
             : 0;
}

}  // namespace inflight::cuda
