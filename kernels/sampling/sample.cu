#include "kernels/sampling/sample.h"

namespace inflight::cuda {

void sample(const SampleParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "sample: not on CUDA yet");
}

}  // namespace inflight::cuda
