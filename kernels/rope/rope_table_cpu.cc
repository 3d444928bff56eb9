#include <cmath>

#include "kernels/core/cpu/parallel.h"
#include "kernels/rope/rope_table.h"

namespace inflight::cpu {
namespace {

/// The base for a sequence of `length` tokens; all in float32, as transformers computes it.
float dynamic_base(const DynamicRope& dynamic, int32_t length, int64_t rope_size) {
  const auto size = static_cast<double>(rope_size);
  const float stretch = static_cast<float>(dynamic.factor) * static_cast<float>(length) /
                            static_cast<float>(dynamic.original_max_position) -
                        static_cast<float>(dynamic.factor - 1);
  return static_cast<float>(dynamic.base) *
         std::pow(stretch, static_cast<float>(size / (size - 2)));
}

}  // namespace

void rope_table(const RopeTableParams& params, OpContext& context) {
  const auto* positions = params.positions.as<int32_t>();
  const auto* rope_lengths = params.rope_lengths.as<int32_t>();
  const int64_t rope_size = params.cos_sin.shape[1], half = rope_size / 2;
  const auto fill_row = [&](int64_t t) {
    float* cosines = params.cos_sin.as<float>() + t * rope_size;
    float* sines = cosines + half;
    const bool is_stretched =
        params.dynamic && rope_lengths[t] > params.dynamic->original_max_position;
    const float base =
        is_stretched ? dynamic_base(*params.dynamic, rope_lengths[t], rope_size) : 0.0f;
    for (int64_t i = 0; i < half; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope_size);
      const float inv_freq = is_stretched ? 1.0f / std::pow(base, exponent) : params.inv_freq[i];
      const float angle = static_cast<float>(positions[t]) * inv_freq;
      cosines[i] = std::cos(angle) * params.attention_scaling;
      sines[i] = std::sin(angle) * params.attention_scaling;
    }
  };
  context.pool->parallel_for(
      params.positions.shape[0],
      [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) fill_row(t);
      },
      grain_for(32 * rope_size));  // a sine costs as much as moving some 30 bytes
}

}  // namespace inflight::cpu
