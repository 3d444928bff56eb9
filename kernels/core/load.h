// What loading weights asks of a CUDA device: to put packed elements where a weight wants them, and
// to make random ones. Everything is in stream order; raises unsupported in a build without CUDA.
#pragma once

#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "kernels/core/random_values.h"

namespace inflight {

/// Part of a dense matrix on the device: `rows` rows of `columns` elements, `stride` elements
/// apart.
struct MatrixBlock {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;

  bool is_dense() const { return rows <= 1 || columns == stride; }
};

/// Elements [first, first + count) of the block, in row-major order, from `packed`, which holds
/// just these. Casts between floating dtypes, rounding to nearest even; others must be equal.
void place_async(const MatrixBlock& to, int64_t first, int64_t count, const void* packed,
                 DType packed_dtype, const Stream& stream);

/// Fills `count` elements of a floating dtype; `to` is aligned to 16 bytes.
void fill_random_async(void* to, DType dtype, int64_t count, const RandomValues& values,
                       const Stream& stream);

}  // namespace inflight
