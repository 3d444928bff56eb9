#include "kernels/activation/silu_mul.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/math.h"
#include "kernels/core/cpu/parallel.h"

namespace inflight::cpu {
namespace {

template <typename T>
INFLIGHT_VECTORIZED void silu_mul_row(T* y, const T* gate, const T* up, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float g = to_float(gate[i]);
    const float silu = to_float(from_float<T>(g / (1.0f + fast_exp(-g))));
    y[i] = from_float<T>(silu * to_float(up[i]));
  }
}

}  // namespace

void silu_mul(const SiluMulParams& params, OpContext& context) {
  dispatch_floating(params.y.dtype, [&]<typename T>(T) {
    const int64_t size = params.y.shape[1];
    const T* gate_up = params.gate_up.as<T>();
    T* y = params.y.as<T>();
    context.pool->parallel_for(
        params.y.shape[0],
        [&](int64_t begin, int64_t end, int) {
          for (int64_t t = begin; t < end; ++t) {
            const T* gate = gate_up + t * 2 * size;
            silu_mul_row(y + t * size, gate, gate + size, size);
          }
        },
        grain_for(3 * size * sizeof(T)));
  });
}

}  // namespace inflight::cpu
