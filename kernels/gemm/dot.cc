#include "kernels/gemm/dot.h"

namespace inflight::cpu {

DotKernel dot_kernel(Isa isa, DType x, DType weight) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16:
      return avx512_bf16::dot_kernel(x, weight);
    case Isa::kAvx512:
      return avx512::dot_kernel(x, weight);
    case Isa::kAvx2:
      return avx2::dot_kernel(x, weight);
#endif
    default:
      return baseline::dot_kernel(x, weight);
  }
}

}  // namespace inflight::cpu
