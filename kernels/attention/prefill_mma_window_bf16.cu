#include "kernels/attention/prefill_mma.cuh"

namespace inflight::cuda {

void prefill_mma_window_bf16(const AttentionParams& params, OpContext& context) {
  mma::launch_prefill<__nv_bfloat16, true>(params, context);
}

}  // namespace inflight::cuda
