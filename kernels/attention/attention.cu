#include "kernels/attention/attention.h"

namespace inflight::cuda {

void attention(const AttentionParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "attention: not on CUDA yet");
}

}  // namespace inflight::cuda
