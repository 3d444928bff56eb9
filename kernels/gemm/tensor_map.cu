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

}  // namespace

CUtensorMap tensor_map(const TensorView& matrix, int box_rows, int box_columns) {
  CUtensorMap map;
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  const cuuint64_t extents[] = {columns, rows}, pitches[] = {columns * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t strides[] = {1, 1};
  const CUresult code =
      encode_function()(&map,
                        matrix.dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                        : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                        2, matrix.data, extents, pitches, box, strides,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check_internal(code == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", static_cast<int>(code));
  return map;
}

}  // namespace inflight::cuda
