#include "kernels/attention/attention_cuda.h"

namespace inflight::cuda {

bool prefill_suits(const AttentionParams&, const OpContext&) { return false; }
void attention_prefill(const AttentionParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "attention: no such kernel yet");
}
size_t prefill_workspace_bytes(const AttentionParams&, const DeviceFacts&) { return 0; }

}  // namespace inflight::cuda
