#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda::decode {

void launch_float16(const AttentionParams& params, OpContext& context) {
  launch_decode_of<__half>(params, context);
}

}  // namespace inflight::cuda::decode
