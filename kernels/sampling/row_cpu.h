// Loops over one row of logits that the CPU sampling ops share. A row is cut into blocks whose
// maxima, once known, let later passes skip nearly everything. Sums are taken in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/cpu/parallel.h"
#include "kernels/core/op.h"

namespace inflight::cpu {

inline constexpr int64_t kRowBlock = 128;  // logits; 1000 blocks in a row of 128k

constexpr int64_t num_row_blocks(int64_t length) { return (length + kRowBlock - 1) / kRowBlock; }

/// Fills block_maxima[num_row_blocks(length)] and returns the largest, or NaN if any is NaN.
float row_maxima(const float* row, int64_t length, float* block_maxima);

/// The first index whose element equals `maximum`, the result of row_maxima.
int64_t first_equal(const float* row, int64_t length, const float* block_maxima, float maximum);

/// The k-th largest element, 1 <= k <= length. Overwrites scratch[max(length, blocks)].
float kth_largest(const float* row, int64_t length, const float* block_maxima, int64_t k,
                  float* scratch);

/// Writes the indices, ascending, and values of the elements >= threshold; returns how many.
int64_t collect(const float* row, int64_t length, const float* block_maxima, float threshold,
                int32_t* indices, float* values);

/// weights[i] = exp((values[i] - maximum) / temperature), where no value exceeds the maximum;
/// below 1e-37 they are 0. Returns their sum. `weights` may be null.
double exp_weights(const float* values, int64_t length, float maximum, float temperature,
                   float* weights);

struct Mass {
  double weight = 0;
  int64_t count = 0;
};
/// Of the elements with values[i] >= threshold: the sum of their weights and how many they are.
Mass mass_from(const float* values, const float* weights, int64_t length, float threshold);

/// The first index at which the running sum of the weights exceeds `target`; the last one with a
/// weight if rounding keeps the sum below it.
int64_t index_at_mass(const float* weights, int64_t length, double target);

/// Hands out 64-byte aligned arrays of a workspace one after another.
class Carver {
 public:
  explicit Carver(void* data) : next_(static_cast<std::byte*>(data)) {}
  template <typename T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(next_);
    next_ += bytes_of<T>(count);
    return result;
  }
  template <typename T>
  static constexpr size_t bytes_of(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }

 private:
  std::byte* next_;
};

/// Calls function(i, thread) for i in [0, count), rows of `length` logits, spread over the pool if
/// there is one and they are worth waking it.
template <typename Function>
void for_each_row(const OpContext& context, int64_t count, int64_t length,
                  const Function& function) {
  constexpr int64_t kGrain = 16384;  // logits: some microseconds of work
  const auto range = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) function(i, thread);
  };
  if (context.pool == nullptr) {
    range(0, count, 0);
  } else {
    context.pool->parallel_for(count, range, (kGrain + length - 1) / length);
  }
}

inline int num_threads_of(const OpContext& context) {
  return context.pool == nullptr ? 1 : context.pool->num_threads();
}

}  // namespace inflight::cpu
