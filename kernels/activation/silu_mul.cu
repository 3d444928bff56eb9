#include <algorithm>

#include "kernels/activation/silu_mul.h"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/vec.cuh"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;

/// Grid: x over the columns of a row, y over rows.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    silu_mul_kernel(const T* gate_up, T* y, int num_rows, int size) {
  let_next_start();
  wait_for_previous();
  const int column = (blockIdx.x * kThreads + threadIdx.x) * kVec;
  if (column >= size) return;
  for (int64_t t = blockIdx.y; t < num_rows; t += gridDim.y) {
    const auto gate = load_vec<T, kVec>(gate_up + 2 * t * size + column);
    const auto up = load_vec<T, kVec>(gate_up + (2 * t + 1) * size + column);
    Vec<T, kVec> out;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float g = to_float(gate[j]);
      out[j] = from_float<T>(rounded<T>(g / (1.0f + expf(-g))) * to_float(up[j]));
    }
    store_vec<T, kVec>(y + t * size + column, out);
  }
}

template <typename T, int kVec>
void run(const SiluMulParams& params, const OpContext& context) {
  const int64_t num_rows = params.y.shape[0], size = params.y.shape[1];
  const auto blocks = static_cast<unsigned>((size / kVec + kThreads - 1) / kThreads);
  const auto rows = static_cast<unsigned>(std::min<int64_t>(num_rows, 65535));
  launch(silu_mul_kernel<T, kVec>, {dim3(blocks, rows), dim3(kThreads)}, context,
         params.gate_up.as<const T>(), params.y.as<T>(), static_cast<int>(num_rows),
         static_cast<int>(size));
}

}  // namespace

void silu_mul(const SiluMulParams& params, OpContext& context) {
  with_floating(params.y.dtype, [&]<typename T>() {
    const int64_t size = params.y.shape[1];
    const bool vectors =
        is_vectorizable<T>(params.gate_up.data, size) && is_vectorizable<T>(params.y.data, size);
    (vectors ? run<T, kVecSize<T>> : run<T, 1>)(params, context);
  });
}

}  // namespace inflight::cuda
