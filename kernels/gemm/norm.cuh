// RMS norm in passing, on pairs of bfloat16:
//   y = (x * g) W^T * 1 / sqrt(mean(x^2) + epsilon)
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/gemm/products.h"

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

/// Where a SplitNorm has the squares of a row's part.
__device__ __forceinline__ float* squares_at(const SplitNorm& norm, int row, int part) {
  return norm.squares + (int64_t{row / 4} * norm.num_parts + part) * 4 + row % 4;
}
/// norm_scale of x's rows into `scales`, by all lanes of `num_warps` warps. Parts are added in a
/// fixed order. Needs a barrier before they are read.
__device__ __forceinline__ void find_scales(float* scales, const SplitNorm& norm, int rows,
                                            int depth, int warp, int num_warps) {
  constexpr int kFours = 2, kLoads = 4;  // rows / 4, and parts of them, on their way
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int first = warp * kFours; first * 4 < rows; first += num_warps * kFours) {
    float4 sums[kFours] = {};
#pragma unroll 1
    for (int begin = lane; begin < norm.num_parts; begin += 32 * kLoads) {
      float4 parts[kFours][kLoads];
#pragma unroll
      for (int four = 0; four < kFours; ++four) {
        const auto* from = reinterpret_cast<const float4*>(squares_at(norm, (first + four) * 4, 0));
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int part = begin + i * 32;
          const bool is_there = part < norm.num_parts && (first + four) * 4 < rows;
          parts[four][i] = is_there ? __ldcg(from + part) : float4{};
        }
      }
#pragma unroll
      for (int four = 0; four < kFours; ++four) {
#pragma unroll
        for (const float4& part : parts[four]) {
          sums[four].x += part.x, sums[four].y += part.y;
          sums[four].z += part.z, sums[four].w += part.w;
        }
      }
    }
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
      float4& sum = sums[four];
#pragma unroll 1
      for (int offset = 16; offset > 0; offset /= 2) {
        sum.x += __shfl_xor_sync(0xffffffff, sum.x, offset);
        sum.y += __shfl_xor_sync(0xffffffff, sum.y, offset);
        sum.z += __shfl_xor_sync(0xffffffff, sum.z, offset);
        sum.w += __shfl_xor_sync(0xffffffff, sum.w, offset);
      }
      const float squares = lane == 0 ? sum.x : lane == 1 ? sum.y : lane == 2 ? sum.z : sum.w;
      const int row = (first + four) * 4 + lane;
      if (lane < 4 && row < rows) scales[row] = norm_scale(squares, depth, norm.epsilon);
    }
  }
}

#endif

}  // namespace inflight::cuda
