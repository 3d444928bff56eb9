// The end of every product: adds the bias and rounds to y's dtype. Both dtypes are run-time facts:
// one switch per store costs nothing beside reading the weights.
#pragma once

#include "kernels/core/cuda/vec.cuh"
#include "kernels/gemm/gemm.h"

namespace inflight::cuda {

struct ProductOutput {
  void* y;           // [rows, columns]
  const void* bias;  // [columns] or null
  int rows;
  int columns;
  DType y_dtype;
  DType bias_dtype;
  const void* residual = nullptr;  // as y, may be y, or null
  bool is_gated = false;  // y = silu(gate) * up; weight and bias have 2 * columns rows, gate first
};

inline ProductOutput output_of(const LinearParams& p) {
  return {.y = p.y.data,
          .bias = p.bias.data,
          .rows = static_cast<int>(p.y.shape[0]),
          .columns = static_cast<int>(p.y.shape[1]),
          .y_dtype = p.y.dtype,
          .bias_dtype = p.bias.dtype};
}
inline ProductOutput output_of(const FusedProductParams& p) {
  ProductOutput out = output_of(p.linear);
  out.residual = p.residual.data;
  out.is_gated = p.is_gated;
  return out;
}

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

__device__ __forceinline__ void add_four(float (&sums)[4], const float* part) {
  const float4 four = *reinterpret_cast<const float4*>(part);
  sums[0] += four.x, sums[1] += four.y, sums[2] += four.z, sums[3] += four.w;
}

/// Whether N elements of a row from a multiple of N on can be moved at once.
template <typename T, int N>
__device__ __forceinline__ bool moves_whole(const void* data, int columns) {
  return columns % N == 0 && reinterpret_cast<uintptr_t>(data) % (sizeof(T) * N) == 0;
}

template <typename Function>
__device__ __forceinline__ void with_type(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(__half{});
    case DType::kBFloat16:
      return function(__nv_bfloat16{});
    default:
      return function(float{});
  }
}

/// What is added to N elements' sums; read before the sums are there.
template <int N>
struct Additions {
  float bias[N] = {}, up_bias[N] = {}, residual[N] = {};
};

template <int N>
__device__ __forceinline__ Additions<N> load_additions(const ProductOutput& out, int row,
                                                       int column) {
  Additions<N> add;
  if (row >= out.rows || column >= out.columns) return add;
  if (out.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (column + i >= out.columns) break;
      add.bias[i] = load_float(out.bias, out.bias_dtype, column + i);
      if (out.is_gated)
        add.up_bias[i] = load_float(out.bias, out.bias_dtype, out.columns + column + i);
    }
  }
  if (out.residual != nullptr) {
    with_type(out.y_dtype, [&]<typename Y>(Y) {
      const Y* from = static_cast<const Y*>(out.residual) + int64_t{row} * out.columns + column;
      if (moves_whole<Y, N>(out.residual, out.columns)) {
        const auto values = load_vec<Y, N>(from);
#pragma unroll
        for (int i = 0; i < N; ++i) add.residual[i] = to_float(values[i]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
          if (column + i < out.columns) add.residual[i] = to_float(from[i]);
      }
    });
  }
  return add;
}

/// y[row][column..column + N) = s, or silu(s) * up, plus the residual, s being sums + bias;
/// rounded where the ops that this stands for round.
template <int N>
__device__ __forceinline__ void store_finished(const ProductOutput& out, int row, int column,
                                               float (&sums)[N], float (&up)[N],
                                               const Additions<N>& add) {
  if (row >= out.rows || column >= out.columns) return;
  with_type(out.y_dtype, [&]<typename Y>(Y) {
    Vec<Y, N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const auto finished = [&](float sum, float bias) {
        return rounded<Y>(out.bias != nullptr ? sum + bias : sum);
      };
      float value = finished(sums[i], add.bias[i]);
      if (out.is_gated) {
        const float silu = rounded<Y>(value / (1.0f + expf(-value)));
        value = rounded<Y>(silu * finished(up[i], add.up_bias[i]));
      }
      if (out.residual != nullptr) value += add.residual[i];
      values[i] = from_float<Y>(value);
    }
    Y* to = static_cast<Y*>(out.y) + int64_t{row} * out.columns + column;
    if (moves_whole<Y, N>(out.y, out.columns)) {
      store_vec<Y, N>(to, values);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (column + i < out.columns) to[i] = values[i];
    }
  });
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
