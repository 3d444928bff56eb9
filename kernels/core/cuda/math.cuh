// Instructions of one function each that the language has no name for.
#pragma once

namespace inflight::cuda {

/// 2^x to 2 units in the last place, subnormals as zeros (PTX ISA: ex2.approx.ftz).
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace inflight::cuda
