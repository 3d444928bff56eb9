// What the prefill kernels do with scores in registers.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/math.cuh"

namespace inflight::cuda::prefill {

/// Of lane c of four, words[i] becomes lane i's words[c].
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool high = threadIdx.x & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t sent = high ? words[i] : words[i | bit];
      const uint32_t received = __shfl_xor_sync(~0u, sent, bit);
      (high ? words[i] : words[i | bit]) = received;
    }
  }
}

/// Online, of a lane's two rows of a wgmma accumulator with kScores elements.
template <int kScores>
struct Softmax {
  // Finite, for a row may see none of a part's keys.
  float max0 = -1e30f, max1 = -1e30f, sum0 = 0, sum1 = 0;
  float factor0, factor1;  // for earlier outputs

  /// Scores become weights.
  __device__ __forceinline__ void update(float (&scores)[kScores], float scale) {
    float new0 = max0, new1 = max1;
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      new0 = fmaxf(new0, fmaxf(scores[i], scores[i + 1]));
      new1 = fmaxf(new1, fmaxf(scores[i + 2], scores[i + 3]));
    }
    new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, 1));
    new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, 1));
    new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, 2));
    new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, 2));
    factor0 = exp2_fast((max0 - new0) * scale);
    factor1 = exp2_fast((max1 - new1) * scale);
    max0 = new0, max1 = new1;
    const float offset0 = new0 * scale, offset1 = new1 * scale;
    sum0 *= factor0, sum1 *= factor1;
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      scores[i] = exp2_fast(fmaf(scores[i], scale, -offset0));
      scores[i + 1] = exp2_fast(fmaf(scores[i + 1], scale, -offset0));
      scores[i + 2] = exp2_fast(fmaf(scores[i + 2], scale, -offset1));
      scores[i + 3] = exp2_fast(fmaf(scores[i + 3], scale, -offset1));
      sum0 += scores[i] + scores[i + 1];
      sum1 += scores[i + 2] + scores[i + 3];
    }
  }
};

}  // namespace inflight::cuda::prefill
