#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda::decode {

void launch_float16(const AttentionParams& params, const TensorView* cos_sin, OpContext& context) {
  if (cos_sin == nullptr) return launch_decode_of<__half>(params, context);
  launch_decode_of_qkv<__half>(params, *cos_sin, context);
}

}  // namespace inflight::cuda::decode
