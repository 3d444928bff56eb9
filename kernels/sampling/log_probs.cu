#include "kernels/sampling/log_probs.h"

namespace inflight::cuda {

void log_probs(const LogProbsParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "log_probs: not on CUDA yet");
}

}  // namespace inflight::cuda
