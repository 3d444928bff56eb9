#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda::decode {

void launch_bfloat16(const AttentionParams& params, OpContext& context) {
  launch_decode_of<__nv_bfloat16>(params, context);
}

}  // namespace inflight::cuda::decode
