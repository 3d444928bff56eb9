// Tensor maps: how Hopper's copy engine is told of an array and of the box that it copies at a
// time. (CUDA Driver API, "Tensor Map Object Management".)
#pragma once

#include <cuda.h>

#include <array>
#include <cstddef>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace inflight::cuda {

/// An array of 16-bit elements, the innermost dimension, which is dense, first. Data and pitches
/// are multiples of 16 bytes; a box's innermost dimension is at most as long as the swizzle.
template <size_t kDims>
struct TensorMapOf {
  const void* data;
  DType dtype;  // kFloat16 or kBFloat16
  std::array<cuuint64_t, kDims> extents;
  std::array<cuuint64_t, kDims - 1> pitches;  // bytes, of all dimensions but the first
  std::array<cuuint32_t, kDims> box;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
};

using TensorMapEncode = decltype(&cuTensorMapEncodeTiled);
/// The driver's function, without linking to the driver. Raises internal if it has none.
TensorMapEncode tensor_map_encode();

/// Raises internal if the driver refuses it.
template <size_t kDims>
CUtensorMap make_tensor_map(const TensorMapOf<kDims>& of) {
  CUtensorMap map;
  std::array<cuuint32_t, kDims> ones;
  ones.fill(1);
  const CUresult code =
      tensor_map_encode()(&map,
                          of.dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                      : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                          kDims, const_cast<void*>(of.data), of.extents.data(), of.pitches.data(),
                          of.box.data(), ones.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, of.swizzle,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check_internal(code == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", static_cast<int>(code));
  return map;
}

}  // namespace inflight::cuda
