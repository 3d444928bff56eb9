// The activation of gated sums, in registers.
#pragma once

#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/math.cuh"

namespace inflight::cuda {

/// silu(gate) * up of two, rounded where the separate ops round. One reciprocal serves both.
template <typename T>
__device__ __forceinline__ uint32_t gated(float gate0, float gate1, float up0, float up1) {
  const float2 gate = unpack(T(), pack(T(), gate0, gate1)), up = unpack(T(), pack(T(), up0, up1));
  const auto one_and_exp = [](float g) {
    return 1.0f + exp2_fast(fminf(g * -1.44269504f, 60.0f));  // the product of two is finite
  };
  const float below0 = one_and_exp(gate.x), below1 = one_and_exp(gate.y);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(below0 * below1));
  const float2 silu = unpack(T(), pack(T(), gate.x * below1 * inverse, gate.y * below0 * inverse));
  return pack(T(), silu.x * up.x, silu.y * up.y);
}

}  // namespace inflight::cuda
