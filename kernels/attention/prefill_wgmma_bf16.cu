#include "kernels/attention/prefill_wgmma.cuh"

namespace inflight::cuda {

void prefill_wgmma_bf16(const AttentionParams& params, OpContext& context) {
  wgmma::launch_prefill<__nv_bfloat16, false>(params, context);
}

}  // namespace inflight::cuda
