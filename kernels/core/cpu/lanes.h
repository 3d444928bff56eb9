// One register of floats, for the few inner loops that the compiler does not vectorise well. A file
// that uses it is compiled once per instruction set: having included every other header, it sets
// `#pragma GCC target`, defines INFLIGHT_ISA_LEVEL as that instruction set's rank in Isa, and
// includes this. Each has its own namespace, so that its code never merges with another's.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined operands in its own intrinsics for ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <cstdint>
#include <cstring>

#include "kernels/core/cpu/convert.h"

#if !defined(INFLIGHT_ISA_LEVEL)
#define INFLIGHT_ISA_LEVEL 0
#endif
#if INFLIGHT_ISA_LEVEL == 3
#define INFLIGHT_ISA avx512_bf16
#elif INFLIGHT_ISA_LEVEL == 2
#define INFLIGHT_ISA avx512
#elif INFLIGHT_ISA_LEVEL == 1
#define INFLIGHT_ISA avx2
#else
#define INFLIGHT_ISA baseline
#endif
#define INFLIGHT_INLINE __attribute__((always_inline)) inline

namespace inflight::cpu::INFLIGHT_ISA {

typedef float Four __attribute__((vector_size(16)));

#if INFLIGHT_ISA_LEVEL >= 2

inline constexpr int64_t kLanes = 16;
using Lanes = __m512;

INFLIGHT_INLINE Lanes broadcast(float value) { return _mm512_set1_ps(value); }
INFLIGHT_INLINE Lanes load(const float* from) { return _mm512_loadu_ps(from); }
INFLIGHT_INLINE Lanes widen(__m256i bits, BFloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
INFLIGHT_INLINE Lanes widen(__m256i bits, Float16) { return _mm512_cvtph_ps(bits); }
template <typename T>
INFLIGHT_INLINE Lanes load(const T* from) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), T{});
}
INFLIGHT_INLINE __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
INFLIGHT_INLINE Lanes load_first(const float* from, int64_t count) {
  return _mm512_maskz_loadu_ps(first(count), from);
}
template <typename T>
INFLIGHT_INLINE Lanes load_first(const T* from, int64_t count) {
  return widen(_mm256_maskz_loadu_epi16(first(count), from), T{});
}
INFLIGHT_INLINE void store(float* to, Lanes value) { _mm512_storeu_ps(to, value); }
INFLIGHT_INLINE void store_first(float* to, Lanes value, int64_t count) {
  _mm512_mask_storeu_ps(to, first(count), value);
}
INFLIGHT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
INFLIGHT_INLINE Four sums(Lanes a, Lanes b, Lanes c, Lanes d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#elif INFLIGHT_ISA_LEVEL == 1

inline constexpr int64_t kLanes = 8;
using Lanes = __m256;

INFLIGHT_INLINE Lanes broadcast(float value) { return _mm256_set1_ps(value); }
INFLIGHT_INLINE Lanes load(const float* from) { return _mm256_loadu_ps(from); }
INFLIGHT_INLINE Lanes widen(__m128i bits, BFloat16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
INFLIGHT_INLINE Lanes widen(__m128i bits, Float16) { return _mm256_cvtph_ps(bits); }
template <typename T>
INFLIGHT_INLINE Lanes load(const T* from) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), T{});
}
INFLIGHT_INLINE void store(float* to, Lanes value) { _mm256_storeu_ps(to, value); }
INFLIGHT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
INFLIGHT_INLINE Four sums(Lanes a, Lanes b, Lanes c, Lanes d) {
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  const __m256 all =
      _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

#else

inline constexpr int64_t kLanes = 4;
using Lanes = Four;

INFLIGHT_INLINE Lanes broadcast(float value) { return Lanes{value, value, value, value}; }
template <typename T>
INFLIGHT_INLINE Lanes load(const T* from) {
  return Lanes{to_float(from[0]), to_float(from[1]), to_float(from[2]), to_float(from[3])};
}
INFLIGHT_INLINE void store(float* to, Lanes value) { std::memcpy(to, &value, sizeof(value)); }
INFLIGHT_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return a * b + c; }
INFLIGHT_INLINE float sum(Lanes value) { return (value[0] + value[2]) + (value[1] + value[3]); }
INFLIGHT_INLINE Four sums(Lanes a, Lanes b, Lanes c, Lanes d) {
  return Four{sum(a), sum(b), sum(c), sum(d)};
}

#endif

/// The sum of one register's lanes, added in the same order as each of `sums`.
#if INFLIGHT_ISA_LEVEL >= 1
INFLIGHT_INLINE float sum(Lanes value) {
  const Lanes zero = broadcast(0.0f);
  return sums(value, zero, zero, zero)[0];
}
#endif

#if INFLIGHT_ISA_LEVEL < 2
/// The first `count` elements, zero beyond: reads no others.
template <typename T>
INFLIGHT_INLINE Lanes load_first(const T* from, int64_t count) {
  T padded[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = from[i];
  return load(padded);
}
INFLIGHT_INLINE void store_first(float* to, Lanes value, int64_t count) {
  float padded[kLanes];
  store(padded, value);
  for (int64_t i = 0; i < count; ++i) to[i] = padded[i];
}
#endif

}  // namespace inflight::cpu::INFLIGHT_ISA
