#include "kernels/attention/prefill_mma.cuh"

namespace inflight::cuda {

void prefill_mma_window_fp16(const AttentionParams& params, OpContext& context) {
  mma::launch_prefill<__half, true>(params, context);
}

}  // namespace inflight::cuda
