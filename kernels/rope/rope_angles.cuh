// The angles of rope_table (rope_table.h) on the device, one at a time, for the kernels that write
// them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/rope/rope_table.h"

namespace inflight::cuda {

/// A launch parameter, so that no copy to the device is needed. Of up to 2 * kMost dimensions.
template <int kMost>
struct RopeAngles {
  float inv_freqs[kMost];
  int half;
  float attention_scaling;
  bool is_dynamic;
  float base, factor, original_max_position;  // of DynamicRope

  static RopeAngles of(const RopeTableParams& params) {
    RopeAngles angles = {};
    std::copy(params.inv_freq.begin(), params.inv_freq.end(), angles.inv_freqs);
    angles.half = static_cast<int>(params.inv_freq.size());
    angles.attention_scaling = params.attention_scaling;
    angles.is_dynamic = params.dynamic.has_value();
    if (!angles.is_dynamic) return angles;
    angles.base = static_cast<float>(params.dynamic->base);
    angles.factor = static_cast<float>(params.dynamic->factor);
    angles.original_max_position = static_cast<float>(params.dynamic->original_max_position);
    return angles;
  }

  /// Of a token, with its rope length: the cosine and the sine of angle i, scaled. All in float32,
  /// as transformers computes it.
  __device__ __forceinline__ float2 at(int i, int32_t position, int32_t rope_length) const {
    float inv_freq = inv_freqs[i];
    const auto length = static_cast<float>(rope_length);
    if (is_dynamic && length > original_max_position) {
      const auto size = static_cast<float>(2 * half);
      const float stretch = factor * length / original_max_position - (factor - 1);
      const float stretched = base * powf(stretch, size / (size - 2));
      inv_freq = 1.0f / powf(stretched, static_cast<float>(2 * i) / size);
    }
    const float angle = static_cast<float>(position) * inv_freq;
    return {cosf(angle) * attention_scaling, sinf(angle) * attention_scaling};
  }
};

}  // namespace inflight::cuda
