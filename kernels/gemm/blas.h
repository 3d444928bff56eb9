// The same product by OpenBLAS, single-threaded: our threads call it on slices of columns.
#pragma once

#include "kernels/core/dtype.h"
#include "kernels/gemm/dot.h"

namespace inflight::cpu {

/// As a DotKernel with float32 x. `slab` holds columns x depth floats; unused for float32 weights.
void blas_product(const DotArgs& args, DType weight, float* slab);

}  // namespace inflight::cpu
