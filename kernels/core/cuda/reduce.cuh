// Sums and maxima over a warp or a thread block; every thread gets the result. The order of the
// additions is fixed, so results repeat bit for bit.
#pragma once

#include <cuda_runtime.h>

namespace inflight::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}

/// Of a block of any multiple of 32 threads up to 1024, all of which must call it. `scratch` holds
/// 32 floats of shared memory; reuse of it needs a barrier of the caller's.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < num_warps ? scratch[lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float x, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  x = warp_max(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_max(lane < num_warps ? scratch[lane] : -INFINITY);
}

}  // namespace inflight::cuda
