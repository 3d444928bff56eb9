#include <cmath>

#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/rms_norm/rms_norm.h"

namespace inflight::cpu {
namespace {

template <typename T>
INFLIGHT_VECTORIZED void normalize_row(T* y, const T* x, const T* weight, int64_t size,
                                       float epsilon) {
  float sum_of_squares = 0;
#pragma omp simd reduction(+ : sum_of_squares)
  for (int64_t i = 0; i < size; ++i) sum_of_squares += to_float(x[i]) * to_float(x[i]);
  const float scale = 1.0f / std::sqrt(sum_of_squares / static_cast<float>(size) + epsilon);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float normalized = to_float(from_float<T>(to_float(x[i]) * scale));
    y[i] = from_float<T>(to_float(weight[i]) * normalized);
  }
}

template <typename T>
INFLIGHT_VECTORIZED void add_row(T* sum, const T* a, const T* b, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) sum[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
}

}  // namespace

void rms_norm(const RmsNormParams& params, OpContext& context) {
  dispatch_floating(params.x.dtype, [&]<typename T>(T) {
    const int64_t size = params.x.shape[1];
    const T* x = params.x.as<T>();
    const T* weight = params.weight.as<T>();
    T* y = params.y.as<T>();
    context.pool->parallel_for(
        params.x.shape[0],
        [&](int64_t begin, int64_t end, int) {
          for (int64_t t = begin; t < end; ++t)
            normalize_row(y + t * size, x + t * size, weight, size, params.epsilon);
        },
        grain_for(2 * size * sizeof(T)));
  });
}

void add_rms_norm(const AddRmsNormParams& params, OpContext& context) {
  dispatch_floating(params.x.dtype, [&]<typename T>(T) {
    const int64_t size = params.x.shape[1];
    const T* x = params.x.as<T>();
    const T* residual = params.residual.as<T>();
    const T* weight = params.weight.as<T>();
    T* y = params.y.as<T>();
    T* sum = params.sum ? params.sum.as<T>() : y;
    context.pool->parallel_for(
        params.x.shape[0],
        [&](int64_t begin, int64_t end, int) {
          for (int64_t t = begin; t < end; ++t) {
            const int64_t row = t * size;
            add_row(sum + row, x + row, residual + row, size);
            normalize_row(y + row, sum + row, weight, size, params.epsilon);
          }
        },
        grain_for(4 * size * sizeof(T)));
  });
}

}  // namespace inflight::cpu
