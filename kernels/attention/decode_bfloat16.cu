#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda::decode {

void launch_bfloat16(const AttentionParams& params, const TensorView* cos_sin, OpContext& context) {
  if (cos_sin == nullptr) return launch_decode_of<__nv_bfloat16>(params, context);
  launch_decode_of_qkv<__nv_bfloat16>(params, *cos_sin, context);
}

}  // namespace inflight::cuda::decode
