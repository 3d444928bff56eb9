// CUDA's return codes as Errors.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/error.h"

namespace inflight::cuda {

/// Raises resource_exhausted for too little memory, internal for anything else but success.
inline void check_cuda(cudaError_t code, const char* what) {
  if (code == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // not to be met again by the next call
  throw Error(
      code == cudaErrorMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kInternal,
      concat(what, ": ", cudaGetErrorName(code), ", ", cudaGetErrorString(code)));
}

}  // namespace inflight::cuda
