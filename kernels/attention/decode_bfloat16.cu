#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda::decode {

void launch_bfloat16(const AttentionParams& params, const TensorView* cos_sin, OpContext& context) {
  launch_of<__nv_bfloat16, false>(params, cos_sin, context);
}

}  // namespace inflight::cuda::decode
