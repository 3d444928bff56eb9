#include "kernels/sampling/penalties.h"

namespace inflight::cuda {

void penalties(const PenaltiesParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "penalties: not on CUDA yet");
}

}  // namespace inflight::cuda
