#include "kernels/attention/attend.h"

namespace inflight::cpu {

AttendKernel attend_kernel(Isa isa, DType cache) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16:
    case Isa::kAvx512:
      return avx512::attend_kernel(cache);
    case Isa::kAvx2:
      return avx2::attend_kernel(cache);
#endif
    default:
      return baseline::attend_kernel(cache);
  }
}

}  // namespace inflight::cpu
