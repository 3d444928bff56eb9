// Tensor maps: how Hopper's copy engine is told of a matrix and of the box it copies at a time.
#pragma once

#include <cuda.h>

#include "kernels/core/tensor_view.h"

namespace inflight::cuda {

/// Of a dense [rows, columns] matrix of 16-bit elements, in boxes of box_rows x box_columns with
/// the 128-byte swizzle. Its data and its rows begin at multiples of 16 bytes; box_columns is 64.
CUtensorMap tensor_map(const TensorView& matrix, int box_rows, int box_columns);
/// Rows of a box for the first `rows` rows of a matrix, where there is room for `most`: whole rows
/// of swizzled 8. Rows that lie outside of the matrix take the copy engine longer than those that
/// it reads.
constexpr int box_rows(int rows, int most) { return rows < most ? (rows + 7) / 8 * 8 : most; }
/// The same of a matrix of two halves, in boxes of 64 columns and box_rows / 2 rows of each half,
/// 8 rows of the first and 8 of the second in turns. A half's rows are multiples of 8. Coordinates:
/// column, 0, 0, row of a half / 8.
CUtensorMap tensor_map_of_halves(const TensorView& matrix, int box_rows);

/// The same of a matrix whose columns are a multiple of 64, seen as [columns / 64, rows, 64]: a box
/// holds chunks x box_rows x 64 elements.
CUtensorMap tensor_map_of_chunks(const TensorView& matrix, int box_rows, int chunks);

}  // namespace inflight::cuda
