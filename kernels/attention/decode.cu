#include "kernels/attention/attention_cuda.h"

namespace inflight::cuda {

bool decode_suits(const AttentionParams&, const OpContext&) { return false; }
void attention_decode(const AttentionParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "attention: no such kernel yet");
}
size_t decode_workspace_bytes(const AttentionParams&, const DeviceFacts&) { return 0; }

}  // namespace inflight::cuda
