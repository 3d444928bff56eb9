// Elements of the three floating dtypes on the device, and the host's switch from a DType to its
// C++ type. Arithmetic is float32 everywhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace inflight::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// `x` as an element of T holds it.
template <typename T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// Two elements in a register, `low` in its lower half, each rounded to nearest even.
__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ __forceinline__ uint32_t pack(__half, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

/// The two elements of such a register.
__device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t pair) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
}
__device__ __forceinline__ float2 unpack(__half, uint32_t pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

/// Calls function.template operator()<T>() with the C++ type of a floating `dtype`.
template <typename Function>
void with_floating(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat32:
      return function.template operator()<float>();
    case DType::kFloat16:
      return function.template operator()<__half>();
    case DType::kBFloat16:
      return function.template operator()<__nv_bfloat16>();
    default:
      throw Error(ErrorCode::kInternal, concat("dtype ", name_of(dtype), " is not floating"));
  }
}

}  // namespace inflight::cuda
