#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/rope/rope_table.h"

namespace inflight::cuda {
namespace {

constexpr int kMaxFrequencies = 512;  // heads of up to 1024 rotated dimensions
constexpr int kMaxThreads = 128;
constexpr int kMostOfThread = kMaxFrequencies / kMaxThreads;

/// A launch parameter, so that no copy to the device is needed.
struct Frequencies {
  float data[kMaxFrequencies];
};

struct Dynamic {
  bool is_on;
  float base, factor, original_max_position;
};

/// One block a token, a thread an angle or a few. All in float32, as transformers computes it.
__global__ void __launch_bounds__(kMaxThreads)
    rope_table_kernel(const int32_t* positions, const int32_t* rope_lengths, float* cos_sin,
                      const __grid_constant__ Frequencies inv_freqs, int half,
                      float attention_scaling, Dynamic dynamic) {
  let_next_start();
  const int64_t t = blockIdx.x;
  const auto position = static_cast<float>(positions[t]);
  const auto length = static_cast<float>(rope_lengths[t]);
  const bool is_stretched = dynamic.is_on && length > dynamic.original_max_position;
  const auto size = static_cast<float>(2 * half);
  float base = 0;
  if (is_stretched) {
    const float stretch =
        dynamic.factor * length / dynamic.original_max_position - (dynamic.factor - 1);
    base = dynamic.base * powf(stretch, size / (size - 2));
  }
  // Of step inputs alone, so ahead of the wait.
  float cosines[kMostOfThread], sines[kMostOfThread];
#pragma unroll
  for (int k = 0; k < kMostOfThread; ++k) {
    const int i = k * kMaxThreads + static_cast<int>(threadIdx.x);
    if (i >= half) break;
    const float exponent = static_cast<float>(2 * i) / size;
    const float inv_freq = is_stretched ? 1.0f / powf(base, exponent) : inv_freqs.data[i];
    cosines[k] = cosf(position * inv_freq) * attention_scaling;
    sines[k] = sinf(position * inv_freq) * attention_scaling;
  }
  wait_for_previous();
#pragma unroll
  for (int k = 0; k < kMostOfThread; ++k) {
    const int i = k * kMaxThreads + static_cast<int>(threadIdx.x);
    if (i >= half) break;
    cos_sin[2 * t * half + i] = cosines[k];
    cos_sin[(2 * t + 1) * half + i] = sines[k];
  }
}

}  // namespace

void rope_table(const RopeTableParams& params, OpContext& context) {
  if (params.inv_freq.size() > kMaxFrequencies) {
    throw Error(ErrorCode::kUnsupported,
                concat("rope_table: ", params.inv_freq.size(), " frequencies, at most ",
                       kMaxFrequencies, " are supported on CUDA"));
  }
  Frequencies inv_freqs = {};
  std::copy(params.inv_freq.begin(), params.inv_freq.end(), inv_freqs.data);
  Dynamic dynamic = {};
  if (params.dynamic) {
    dynamic = {true, static_cast<float>(params.dynamic->base),
               static_cast<float>(params.dynamic->factor),
               static_cast<float>(params.dynamic->original_max_position)};
  }
  const auto half = static_cast<int>(params.cos_sin.shape[1] / 2);
  launch(rope_table_kernel,
         {dim3(static_cast<unsigned>(params.positions.shape[0])),
          dim3(std::clamp((half + 31) / 32 * 32, 32, kMaxThreads))},
         context, params.positions.as<const int32_t>(), params.rope_lengths.as<const int32_t>(),
         params.cos_sin.as<float>(), inv_freqs, half, params.attention_scaling, dynamic);
}

}  // namespace inflight::cuda
