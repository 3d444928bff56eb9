#include "kernels/core/cuda/tensor_map.h"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {

CUtensorMap tensor_map(const TensorView& matrix, int box_rows, int box_columns) {
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  return make_tensor_map<2>(
      {matrix.data,
       matrix.dtype,
       {columns, rows},
       {columns * 2},
       {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)}});
}

CUtensorMap tensor_map_of_halves(const TensorView& matrix, int box_rows) {
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  return make_tensor_map<4>({matrix.data,
                             matrix.dtype,
                             {columns, 8, 2, rows / 16},
                             {columns * 2, rows * columns, columns * 16},
                             {64, 8, 2, static_cast<cuuint32_t>(box_rows / 16)}});
}

CUtensorMap tensor_map_of_chunks(const TensorView& matrix, int box_rows, int chunks) {
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  return make_tensor_map<3>(
      {matrix.data,
       matrix.dtype,
       {64, rows, columns / 64},
       {columns * 2, 128},
       {64, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(chunks)}});
}

}  // namespace inflight::cuda
