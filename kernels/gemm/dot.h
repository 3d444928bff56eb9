// Our own product for few rows: out[m][n] = x[m] . weight[n], both contiguous along the depth. One
// pass over the weights. An output's additions come in an order that depends on the depth alone, so
// that a row's results are the same bits whatever other rows are beside it.
#pragma once

#include <cstdint>

#include "kernels/core/cpu/isa.h"
#include "kernels/core/dtype.h"

namespace inflight::cpu {

struct DotArgs {
  const void* x;       // [rows, depth], rows dense
  const void* weight;  // [columns, depth], rows dense
  float* out;          // [rows, columns], overwritten
  int64_t out_stride;  // elements from row to row of out
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

using DotKernel = void (*)(const DotArgs& args);

/// The product of an x of this dtype with weights of that; null if there is none: x is then to be
/// converted to float32, for which there is one for every weight.
DotKernel dot_kernel(Isa isa, DType x, DType weight);

namespace baseline {
DotKernel dot_kernel(DType x, DType weight);
}
namespace avx2 {
DotKernel dot_kernel(DType x, DType weight);
}
namespace avx512 {
DotKernel dot_kernel(DType x, DType weight);
}
namespace avx512_bf16 {
DotKernel dot_kernel(DType x, DType weight);
}

}  // namespace inflight::cpu
