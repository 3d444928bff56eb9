#include "kernels/attention/prefill_mma.cuh"

namespace inflight::cuda {

void prefill_mma_fp16(const AttentionParams& params, OpContext& context) {
  mma::launch_prefill<__half, false>(params, context);
}

}  // namespace inflight::cuda
