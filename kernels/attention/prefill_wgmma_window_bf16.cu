#include "kernels/attention/prefill_wgmma.cuh"

namespace inflight::cuda {

void prefill_wgmma_window_bf16(const AttentionParams& params, OpContext& context) {
  wgmma::launch_prefill<__nv_bfloat16, true>(params, context);
}

}  // namespace inflight::cuda
