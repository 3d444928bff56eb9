// RMS norm in passing, on pairs of bfloat16:
//   y = (x * g) W^T * 1 / sqrt(mean(x^2) + epsilon)
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace inflight::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ uint32_t scaled(uint32_t pair, uint32_t by) {
  const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(pair),
                                         reinterpret_cast<const __nv_bfloat162&>(by));
  return reinterpret_cast<const uint32_t&>(product);
}
/// Products of eight bfloat16, rounded to bfloat16.
__device__ __forceinline__ uint4 scaled(const uint4& v, const uint4& by) {
  return {scaled(v.x, by.x), scaled(v.y, by.y), scaled(v.z, by.z), scaled(v.w, by.w)};
}

__device__ __forceinline__ float sum_of_squares(const uint4& v) {
  float sum = 0;
#pragma unroll
  for (const uint32_t pair : {v.x, v.y, v.z, v.w}) {
    const float2 two = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
    sum = fmaf(two.x, two.x, fmaf(two.y, two.y, sum));
  }
  return sum;
}

__device__ __forceinline__ float norm_scale(float squares, int depth, float epsilon) {
  return 1.0f / sqrtf(squares / static_cast<float>(depth) + epsilon);
}

#endif

}  // namespace inflight::cuda
