// The end of every product: adds the bias and rounds to y's dtype. Both dtypes are run-time facts:
// one switch per store costs nothing beside reading the weights.
#pragma once

#include "kernels/core/cuda/vec.cuh"

namespace inflight::cuda {

struct ProductOutput {
  void* y;           // [rows, columns]
  const void* bias;  // [columns] or null
  int rows;
  int columns;
  DType y_dtype;
  DType bias_dtype;
};

__device__ __forceinline__ float load_float(const void* from, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat16:
      return to_float(static_cast<const __half*>(from)[i]);
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(from)[i]);
    default:
      return static_cast<const float*>(from)[i];
  }
}

/// y[row][column..column + N) = sums + bias, up to y's edge. The sums keep float32 when there is no
/// bias: the addition is not done rather than done with zero.
template <int N>
__device__ __forceinline__ void store_sums(const ProductOutput& out, int row, int column,
                                           float (&sums)[N]) {
  if (row >= out.rows || column >= out.columns) return;
  if (out.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (column + i < out.columns) sums[i] += load_float(out.bias, out.bias_dtype, column + i);
  }
  const auto store = [&]<typename Y>(Y) {
    Y* to = static_cast<Y*>(out.y) + int64_t{row} * out.columns + column;
    Vec<Y, N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = from_float<Y>(sums[i]);
    if (out.columns % N == 0 && reinterpret_cast<uintptr_t>(out.y) % sizeof(values) == 0) {
      store_vec<Y, N>(to, values);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (column + i < out.columns) to[i] = values[i];
    }
  };
  switch (out.y_dtype) {
    case DType::kFloat16:
      return store(__half{});
    case DType::kBFloat16:
      return store(__nv_bfloat16{});
    default:
      return store(float{});
  }
}

}  // namespace inflight::cuda
