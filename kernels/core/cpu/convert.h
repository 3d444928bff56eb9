// The 16-bit floating types on the CPU and their conversion to and from float: plain integer code
// without branches, so that loops over it vectorise on any instruction set. Rounds to nearest even.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/core/dtype.h"

namespace inflight::cpu {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

[[gnu::always_inline]] inline float to_float(float value) { return value; }

[[gnu::always_inline]] inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

[[gnu::always_inline]] inline float to_float(Float16 value) {
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  // 2^112 moves the exponent's bias from 15 to 127, subnormals included.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude | 0x7f800000;  // infinities and NaN
  const uint32_t bits = magnitude >= 0x0f800000 ? special : std::bit_cast<uint32_t>(scaled);
  return std::bit_cast<float>(bits | sign);
}

template <typename T>
T from_float(float value);

template <>
[[gnu::always_inline]] inline float from_float<float>(float value) {
  return value;
}

template <>
[[gnu::always_inline]] inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40;
  return {static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded)};
}

template <>
[[gnu::always_inline]] inline Float16 from_float<Float16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  // Normal results: rebias by subtracting 112 exponents, round the 13 bits that go.
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Subnormal results: adding 0.5 leaves the value, rounded in units of 2^-24, in the low bits.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  const uint32_t overflowed = magnitude >= 0x477ff000 ? 0x7c00 : finite;
  const uint32_t result = magnitude > 0x7f800000 ? 0x7e00 : overflowed;
  return {static_cast<uint16_t>(result | sign)};
}

/// Calls function(T{}) with the CPU type of a floating `dtype`.
template <typename Function>
decltype(auto) dispatch_floating(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(Float16{});
    case DType::kBFloat16:
      return function(BFloat16{});
    default:
      return function(float{});
  }
}

}  // namespace inflight::cpu
