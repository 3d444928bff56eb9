// Functions of float as plain arithmetic, so that loops over them vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace inflight::cpu {

/// exp(x) within 2 units in the last place; 0 below -87.3 (results under the smallest normal),
/// infinity above 88.7; NaN stays NaN.
[[gnu::always_inline]] inline float fast_exp(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts: the first has few bits, so n times it is exact.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // Times 2^n in two steps: n may be 128.
  const auto exponent =
      static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound));
  const float half = std::bit_cast<float>(((exponent >> 1) + 127) << 23);
  const float rest = std::bit_cast<float>((exponent - (exponent >> 1) + 127) << 23);
  const float result = p * half * rest;
  const float not_tiny = x < -87.33654f ? 0.0f : result;
  return x > 88.72284f ? std::bit_cast<float>(0x7f800000) : (x != x ? x : not_tiny);
}

}  // namespace inflight::cpu
