#include "kernels/attention/prefill_wgmma.cuh"

namespace inflight::cuda {

void prefill_wgmma_window_fp16(const AttentionParams& params, OpContext& context) {
  wgmma::launch_prefill<__half, true>(params, context);
}

}  // namespace inflight::cuda
