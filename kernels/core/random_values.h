// The values of dummy weights: normal to the eye, and the same bits on every device, since they are
// sums of integers times one factor.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/core/philox.h"

namespace inflight {

/// Element i is centre + scale * sum, sum being that of four random bytes less its mean.
struct RandomValues {
  uint64_t seed = 0;
  float centre = 0;
  float scale = 0;

  /// Of this standard deviation: four bytes have variance 4 * (256^2 - 1) / 12.
  static RandomValues normal(uint64_t seed, float deviation) {
    return {.seed = seed, .scale = deviation / 147.801669f};
  }
  static RandomValues constant(float value) { return {.centre = value}; }
};

/// The sums of elements 4 * group to 4 * group + 3, from -510 to 510.
constexpr std::array<int32_t, 4> random_sums(uint64_t seed, uint64_t group) {
  const PhiloxCounter words =
      philox4x32_10({static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), 0, 0},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  std::array<int32_t, 4> sums{};
  for (int i = 0; i < 4; ++i) {
    const uint32_t pairs = (words[i] & 0x00ff00ff) + (words[i] >> 8 & 0x00ff00ff);
    sums[i] = static_cast<int32_t>((pairs & 0xffff) + (pairs >> 16)) - 510;
  }
  return sums;
}

}  // namespace inflight
