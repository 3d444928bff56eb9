#include "kernels/core/device.h"

namespace inflight {

OpContext DeviceContext::op_context() const {
  OpContext context;
  context.device = device_;
  context.pool = pool_;
  if (is_cuda()) {
    context.stream = stream_->handle();
    context.num_multiprocessors = facts_->num_multiprocessors;
    context.compute_capability = facts_->compute_capability;
    context.cublaslt = cublaslt_;
    context.counters = static_cast<uint32_t*>(counters_.data());
  }
  return context;
}

}  // namespace inflight
