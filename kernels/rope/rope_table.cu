#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/rope/rope_angles.cuh"

namespace inflight::cuda {
namespace {

constexpr int kMaxFrequencies = 512;  // heads of up to 1024 rotated dimensions
constexpr int kMaxThreads = 128;
constexpr int kMostOfThread = kMaxFrequencies / kMaxThreads;

/// One block a token, a thread an angle or a few.
__global__ void __launch_bounds__(kMaxThreads)
    rope_table_kernel(const int32_t* positions, const int32_t* rope_lengths, float* cos_sin,
                      const __grid_constant__ RopeAngles<kMaxFrequencies> angles) {
  let_next_start();
  const int64_t t = blockIdx.x;
  const int32_t position = positions[t], rope_length = rope_lengths[t];
  // Of step inputs alone, so ahead of the wait.
  float2 made[kMostOfThread];
#pragma unroll
  for (int k = 0; k < kMostOfThread; ++k) {
    const int i = k * kMaxThreads + static_cast<int>(threadIdx.x);
    if (i >= angles.half) break;
    made[k] = angles.at(i, position, rope_length);
  }
  wait_for_previous();
#pragma unroll
  for (int k = 0; k < kMostOfThread; ++k) {
    const int i = k * kMaxThreads + static_cast<int>(threadIdx.x);
    if (i >= angles.half) break;
    cos_sin[2 * t * angles.half + i] = made[k].x;
    cos_sin[(2 * t + 1) * angles.half + i] = made[k].y;
  }
}

}  // namespace

void rope_table(const RopeTableParams& params, OpContext& context) {
  if (params.inv_freq.size() > kMaxFrequencies) {
    throw Error(ErrorCode::kUnsupported,
                concat("rope_table: ", params.inv_freq.size(), " frequencies, at most ",
                       kMaxFrequencies, " are supported on CUDA"));
  }
  const auto angles = RopeAngles<kMaxFrequencies>::of(params);
  launch(rope_table_kernel,
         {dim3(static_cast<unsigned>(params.positions.shape[0])),
          dim3(std::clamp((angles.half + 31) / 32 * 32, 32, kMaxThreads))},
         context, params.positions.as<const int32_t>(), params.rope_lengths.as<const int32_t>(),
         params.cos_sin.as<float>(), angles);
}

}  // namespace inflight::cuda
