#include "kernels/activation/silu_mul.h"

namespace inflight::cuda {

void silu_mul(const SiluMulParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "silu_mul: not on CUDA yet");
}

}  // namespace inflight::cuda
