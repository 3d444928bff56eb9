// What the prefill kernels do with scores in registers.
#pragma once

#include <climits>
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

/// Online, of a lane's two rows of a wgmma accumulator with kScores elements. Weights are those of
/// scores above a reference, which follows the row's largest score only once that is above it by
/// more than a slack: of any reference the quotient of sums is the same (FlashDecoding++, arXiv
/// 2311.01282, section 3), and earlier outputs need scaling only where it rises. The slack is of
/// exponents of two: weights are no larger.
template <int kScores, int kSlack>
struct Softmax {
  // Finite, for a row may see none of a part's keys.
  float reference0 = -1e30f, reference1 = -1e30f, sum0 = 0, sum1 = 0;
  bool is_raised;          // a reference of the warp's, by the last update
  float factor0, factor1;  // for earlier outputs, then

  /// Scores become weights. `halfway` is called when half of them are.
  template <typename Halfway>
  __device__ __forceinline__ void update(float (&scores)[kScores], float scale,
                                         const Halfway& halfway) {
    const bool is_above0 = is_above<0>(scores, limit0_), is_above1 = is_above<2>(scores, limit1_);
    is_raised = __any_sync(~0u, is_above0 | is_above1);
    if (is_raised) {
      factor0 = raise<0>(scores, scale, reference0, limit0_);
      factor1 = raise<2>(scores, scale, reference1, limit1_);
      is_raised = __any_sync(~0u, factor0 < 1 || factor1 < 1);
      sum0 *= factor0, sum1 *= factor1;
    }
    const float offset0 = reference0 * scale, offset1 = reference1 * scale;
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      if (i == kScores / 2) halfway();
      scores[i] = exp2_fast(fmaf(scores[i], scale, -offset0));
      scores[i + 1] = exp2_fast(fmaf(scores[i + 1], scale, -offset0));
      scores[i + 2] = exp2_fast(fmaf(scores[i + 2], scale, -offset1));
      scores[i + 3] = exp2_fast(fmaf(scores[i + 3], scale, -offset1));
      sum0 += scores[i] + scores[i + 1];
      sum1 += scores[i + 2] + scores[i + 3];
    }
  }
  __device__ __forceinline__ void update(float (&scores)[kScores], float scale) {
    update(scores, scale, [] {});
  }

 private:
  /// Whether one of the lane's scores of a row, from kFirst on, reaches the limit. By integers, of
  /// which there is a maximum of three, in order like floats but for negative ones, and those reach
  /// no limit but the least integer.
  template <int kFirst>
  static __device__ __forceinline__ bool is_above(const float (&scores)[kScores], int limit) {
    const auto bits = [&](int i) { return __float_as_int(scores[i + kFirst]); };
    int even = max(bits(0), bits(1)), odd = max(bits(4), bits(5));  // neither waits for the other
#pragma unroll
    for (int i = 8; i < kScores; i += 8) {
      even = __vimax3_s32(even, bits(i), bits(i + 1));
      odd = __vimax3_s32(odd, bits(i + 4), bits(i + 5));
    }
    return max(even, odd) >= limit;
  }
  /// The row's reference becomes its largest score if that is above it by more than the slack.
  /// Returns the factor for what was weighed by the earlier one. Rows do not look at each other:
  /// their bits do not depend on who else is in the warp.
  template <int kFirst>
  static __device__ __forceinline__ float raise(const float (&scores)[kScores], float scale,
                                                float& reference, int& limit) {
    float largest = reference;
#pragma unroll
    for (int i = kFirst; i < kScores; i += 4)
      largest = fmaxf(largest, fmaxf(scores[i], scores[i + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    if (!((largest - reference) * scale > kSlack)) return 1;
    const float factor = exp2_fast((reference - largest) * scale);
    reference = largest;
    const float reached = reference + kSlack / scale;
    limit = reached >= 0 ? __float_as_int(reached) : INT_MIN;
    return factor;
  }

  int limit0_ = INT_MIN, limit1_ = INT_MIN;  // bits of a score above the reference by the slack
};

}  // namespace inflight::cuda::prefill
