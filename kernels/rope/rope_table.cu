#include "kernels/rope/rope_table.h"

namespace inflight::cuda {

void rope_table(const RopeTableParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "rope_table: not on CUDA yet");
}

}  // namespace inflight::cuda
