// Launches with programmatic dependent launch: a kernel may start while the one before it still
// runs, and waits for it only where it first needs its results.
// (CUDA C++ Programming Guide, "Programmatic Dependent Launch and Synchronization".)
//
// The rule that makes it safe: EVERY thread block of every kernel calls wait_for_previous() before
// it reads or writes anything that another kernel of the stream writes or reads. Only weights,
// launch parameters and the step's inputs may be read before. The last holds because the kernel
// that writes the step's inputs never calls let_next_start(), and its threads end behind a fence:
// all later ones start when what it wrote is there to be read.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "kernels/core/cuda/error.h"
#include "kernels/core/op.h"

namespace inflight::cuda {

/// Blocks until all earlier work of the stream is done and visible.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel of the stream start as soon as all blocks have called this (or ended) and
/// there is room for it. Call it first of all, before wait_for_previous(): the next one still waits
/// for this one's results, and what it does before that is worth 2 to 5 us to a kernel that reads
/// weights or keys.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic; above 48 KB see allow_shared_bytes
  int cluster = 1;          // thread blocks of a cluster, along x
};

/// `kernel<<<shape, context.stream>>>(args...)`, checked.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), const LaunchShape& shape, const OpContext& context,
            Args&&... args) {
  cudaLaunchAttribute attributes[2];
  int num_attributes = 0;
  if (context.compute_capability >= 90) {
    attributes[num_attributes].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[num_attributes++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[num_attributes].id = cudaLaunchAttributeClusterDimension;
    attributes[num_attributes].val.clusterDim.x = shape.cluster;
    attributes[num_attributes].val.clusterDim.y = 1;
    attributes[num_attributes++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(context.stream);
  config.attrs = attributes;
  config.numAttrs = num_attributes;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...),
             "kernel launch");
}

/// Raises the kernel's limit of shared memory above 48 KB, for launches of `bytes` (dynamic and
/// what the kernel declares): to what the device has, whatever they ask for, since the limit is the
/// kernel's and two engines' threads may launch it at the same time.
template <typename Kernel>
void allow_shared_bytes(Kernel kernel, size_t bytes) {
  if (bytes <= (48u << 10)) return;
  int device = 0, most = 0;
  cudaFuncAttributes facts;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaFuncGetAttributes(&facts, kernel), "cudaFuncGetAttributes");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  most - static_cast<int>(facts.sharedSizeBytes)),
             "cudaFuncSetAttribute");
}

}  // namespace inflight::cuda
