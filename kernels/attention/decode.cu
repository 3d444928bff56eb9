#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda {

bool decode_suits(const AttentionParams& params, const OpContext& context) {
  const int64_t size = params.head_size;
  const bool is_size_known = size == 64 || size == 80 || size == 96 || size == 128 || size == 256;
  const TensorView& cache = params.kv_cache;
  return is_size_known && params.q.dtype != DType::kFloat32 && cache.dtype == params.q.dtype &&
         cache.shape[3] % decode::kTileKeys == 0 && cache.strides[0] % 8 == 0 &&
         params.kv_lengths.shape[0] <= decode::kMaxSequences &&
         decode::shared_bytes(params) <= decode::most_shared_bytes(context.compute_capability);
}

bool decode_takes_qkv(const AttentionParams& params, const TensorView& cos_sin,
                      const OpContext& context) {
  return decode_suits(params, context) && decode::takes_qkv(params, context) &&
         cos_sin.shape[1] == params.head_size;
}

void attention_decode(const AttentionParams& params, const TensorView* cos_sin,
                      OpContext& context) {
  check_internal(
      context.workspace.bytes >=
          decode_workspace_bytes(params, {.num_multiprocessors = context.num_multiprocessors}),
      "attention: workspace of ", context.workspace.bytes, " bytes is too small");
  const bool is_bf16 = params.q.dtype == DType::kBFloat16;
  if (params.window > 0) {
    return is_bf16 ? decode::launch_window_bfloat16(params, cos_sin, context)
                   : decode::launch_window_float16(params, cos_sin, context);
  }
  return is_bf16 ? decode::launch_bfloat16(params, cos_sin, context)
                 : decode::launch_float16(params, cos_sin, context);
}

size_t decode_workspace_bytes(const AttentionParams& largest, const DeviceFacts& facts) {
  const int64_t parts =
      2 * std::min(kNumCounters, facts.num_multiprocessors * decode::kMaxBlocksPerMultiprocessor);
  return parts * decode::head_groups(largest).heads * (largest.head_size + 2) * sizeof(float);
}

}  // namespace inflight::cuda
