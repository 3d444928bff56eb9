#include "kernels/core/cuda/error.h"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function by way of the runtime: nothing links to the driver itself.
Encode encode_function() {
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                cudaEnableDefault, &result),
               "cudaGetDriverEntryPoint");
    check_internal(result == cudaDriverEntryPointSuccess, "the driver has no tensor maps");
    return reinterpret_cast<Encode>(function);
  }();
  return encode;
}

// Boxes of 64 elements of the first dimension in the 128-byte swizzle; pitches are in bytes.
template <size_t kDims>
CUtensorMap encode(const TensorView& matrix, const cuuint64_t (&extents)[kDims],
                   const cuuint64_t* pitches, const cuuint32_t (&box)[kDims]) {
  CUtensorMap map;
  cuuint32_t strides[kDims];
  for (cuuint32_t& stride : strides) stride = 1;
  const CUresult code =
      encode_function()(&map,
                        matrix.dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                        : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                        kDims, matrix.data, extents, pitches, box, strides,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check_internal(code == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", static_cast<int>(code));
  return map;
}

}  // namespace

CUtensorMap tensor_map(const TensorView& matrix, int box_rows, int box_columns) {
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  const cuuint64_t extents[] = {columns, rows}, pitches[] = {columns * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)};
  return encode(matrix, extents, pitches, box);
}

CUtensorMap tensor_map_of_halves(const TensorView& matrix, int box_rows) {
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  const cuuint64_t extents[] = {columns, 8, 2, rows / 16};
  const cuuint64_t pitches[] = {columns * 2, rows * columns, columns * 16};
  const cuuint32_t box[] = {64, 8, 2, static_cast<cuuint32_t>(box_rows / 16)};
  return encode(matrix, extents, pitches, box);
}

CUtensorMap tensor_map_of_chunks(const TensorView& matrix, int box_rows, int chunks) {
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  const cuuint64_t extents[] = {64, rows, columns / 64}, pitches[] = {columns * 2, 128};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(chunks)};
  return encode(matrix, extents, pitches, box);
}

}  // namespace inflight::cuda
