#include "kernels/sampling/argmax.h"

namespace inflight::cuda {

void argmax(const ArgmaxParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "argmax: not on CUDA yet");
}

}  // namespace inflight::cuda
