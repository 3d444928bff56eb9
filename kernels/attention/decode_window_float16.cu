#include "kernels/attention/decode_launch.cuh"

namespace inflight::cuda::decode {

void launch_window_float16(const AttentionParams& params, const TensorView* cos_sin,
                           OpContext& context) {
  launch_of<__half, true>(params, cos_sin, context);
}

}  // namespace inflight::cuda::decode
