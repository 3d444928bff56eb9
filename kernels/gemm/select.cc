#include "kernels/gemm/select.h"

namespace inflight::cpu {

// Measured on Zen 4 (2 cores, AVX-512): ours reaches 180 to 220 GFLOP/s in float32 from 64 rows on,
// OpenBLAS 125 to 205, and ours is 1.5 to 2.5 times faster at 16 rows; so with AVX-512 or AVX2
// there is no crossover. Plain vectors are four lanes without fused products: there OpenBLAS, which
// has kernels for every processor, pays from some ten rows on.
constexpr int64_t kMinBlasRows = 12;

LinearKernel select_linear(const LinearShape& shape, Isa isa) {
  if (isa == Isa::kBaseline && shape.rows >= kMinBlasRows) return LinearKernel::kBlas;
  return LinearKernel::kDot;
}

}  // namespace inflight::cpu
