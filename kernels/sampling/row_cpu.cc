#include "kernels/sampling/row_cpu.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "kernels/core/cpu/isa.h"

namespace inflight::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// exp(x) for x <= 0, within 2 units in the last place; 0 below -87. Cephes' polynomial.
[[gnu::always_inline]] inline float exp_of_negative(float x) {
  const float bounded = x < -87.0f ? -87.0f : x;
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t scale_bits = (std::bit_cast<int32_t>(shifted) + 127) << 23;
  return p * std::bit_cast<float>(x >= -87.0f ? scale_bits : 0);
}

[[gnu::always_inline]] inline float sum_of(const float* values, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

}  // namespace

INFLIGHT_VECTORIZED
float row_maxima(const float* row, int64_t length, float* block_maxima) {
  int32_t any_nan = 0;
  float largest = -kInfinity;
  for (int64_t begin = 0, block = 0; begin < length; begin += kRowBlock, ++block) {
    const float* values = row + begin;
    const int64_t count = std::min(kRowBlock, length - begin);
    float maximum = -kInfinity;
    int32_t nan = 0;
#pragma omp simd reduction(max : maximum) reduction(| : nan)
    for (int64_t i = 0; i < count; ++i) {
      maximum = values[i] > maximum ? values[i] : maximum;
      nan |= values[i] != values[i];
    }
    block_maxima[block] = maximum;
    largest = maximum > largest ? maximum : largest;
    any_nan |= nan;
  }
  return any_nan ? std::numeric_limits<float>::quiet_NaN() : largest;
}

int64_t first_equal(const float* row, int64_t length, const float* block_maxima, float maximum) {
  const int64_t block =
      std::find(block_maxima, block_maxima + num_row_blocks(length), maximum) - block_maxima;
  const float* begin = row + block * kRowBlock;
  return std::find(begin, row + length, maximum) - row;
}

float kth_largest(const float* row, int64_t length, const float* block_maxima, int64_t k,
                  float* scratch) {
  const int64_t blocks = num_row_blocks(length);
  int64_t count = length;
  if (k <= blocks) {
    // k blocks reach the k-th largest maximum, so at least k elements do.
    std::copy(block_maxima, block_maxima + blocks, scratch);
    std::nth_element(scratch, scratch + (k - 1), scratch + blocks, std::greater<>());
    const float threshold = scratch[k - 1];
    count = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      if (block_maxima[block] < threshold) continue;
      const int64_t end = std::min((block + 1) * kRowBlock, length);
      for (int64_t i = block * kRowBlock; i < end; ++i) {
        scratch[count] = row[i];
        count += row[i] >= threshold;
      }
    }
  } else {
    std::copy(row, row + length, scratch);
  }
  std::nth_element(scratch, scratch + (k - 1), scratch + count, std::greater<>());
  return scratch[k - 1];
}

int64_t collect(const float* row, int64_t length, const float* block_maxima, float threshold,
                int32_t* indices, float* values) {
  int64_t count = 0;
  for (int64_t block = 0; block < num_row_blocks(length); ++block) {
    if (block_maxima[block] < threshold) continue;
    const int64_t end = std::min((block + 1) * kRowBlock, length);
    for (int64_t i = block * kRowBlock; i < end; ++i) {
      // Written always, kept only if it counts: no branch to mispredict. count <= i.
      indices[count] = static_cast<int32_t>(i);
      values[count] = row[i];
      count += row[i] >= threshold;
    }
  }
  return count;
}

INFLIGHT_VECTORIZED
double exp_weights(const float* values, int64_t length, float maximum, float temperature,
                   float* weights) {
  double total = 0;
  float block[kRowBlock];
  for (int64_t begin = 0; begin < length; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, length - begin);
    const float* in = values + begin;
    float* out = weights == nullptr ? block : weights + begin;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = exp_of_negative((in[i] - maximum) / temperature);
    total += sum_of(out, count);
  }
  return total;
}

INFLIGHT_VECTORIZED
Mass mass_from(const float* values, const float* weights, int64_t length, float threshold) {
  Mass mass;
  for (int64_t begin = 0; begin < length; begin += kRowBlock) {
    const int64_t end = std::min(begin + kRowBlock, length);
    float sum = 0;
    int32_t count = 0;
#pragma omp simd reduction(+ : sum, count)
    for (int64_t i = begin; i < end; ++i) {
      const int32_t inside = values[i] >= threshold;
      sum += weights[i] * static_cast<float>(inside);  // not ?:, which becomes a branch
      count += inside;
    }
    mass.weight += sum;
    mass.count += count;
  }
  return mass;
}

INFLIGHT_VECTORIZED
int64_t index_at_mass(const float* weights, int64_t length, double target) {
  double sum = 0;
  int64_t last = 0;  // no index after it has a weight, of those passed
  for (int64_t begin = 0; begin < length; begin += kRowBlock) {
    const int64_t end = std::min(begin + kRowBlock, length);
    const double block = sum_of(weights + begin, end - begin);
    if (sum + block <= target) {
      sum += block;
      if (block > 0) last = end - 1;
      continue;
    }
    for (int64_t i = begin; i < end; ++i) {
      if (weights[i] <= 0) continue;
      sum += weights[i];
      last = i;
      if (sum > target) return i;
    }
  }
  while (last > 0 && weights[last] <= 0) --last;
  return last;
}

}  // namespace inflight::cpu
