#include "kernels/rope/rope_kv_append.h"

namespace inflight::cuda {

void rope_kv_append(const RopeKvAppendParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "rope_kv_append: not on CUDA yet");
}

}  // namespace inflight::cuda
