#include "kernels/attention/prefill_wgmma.cuh"

namespace inflight::cuda {

void prefill_wgmma_fp16(const AttentionParams& params, OpContext& context) {
  wgmma::launch_prefill<__half, false>(params, context);
}

}  // namespace inflight::cuda
