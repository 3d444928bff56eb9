// RMS norm in passing, on pairs of bfloat16:
//   y = (x * g) W^T * 1 / sqrt(mean(x^2) + epsilon)
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace inflight::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ float square_sum(float sum, uint32_t pair) {
  const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
  return fmaf(high, high, fmaf(low, low, sum));
}
/// sum + the squares of eight bfloat16.
__device__ __forceinline__ float square_sum(float sum, const uint4& v) {
  return square_sum(square_sum(square_sum(square_sum(sum, v.x), v.y), v.z), v.w);
}

__device__ __forceinline__ uint32_t scaled(uint32_t pair, uint32_t by) {
  const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(pair),
                                         reinterpret_cast<const __nv_bfloat162&>(by));
  return reinterpret_cast<const uint32_t&>(product);
}
/// Products of eight bfloat16, rounded to bfloat16.
__device__ __forceinline__ uint4 scaled(const uint4& v, const uint4& by) {
  return {scaled(v.x, by.x), scaled(v.y, by.y), scaled(v.z, by.z), scaled(v.w, by.w)};
}

__device__ __forceinline__ float norm_scale(float squares, int depth, float epsilon) {
  return 1.0f / sqrtf(squares / static_cast<float>(depth) + epsilon);
}

#endif

}  // namespace inflight::cuda
