#include "backend/plan/arena.h"

#include <algorithm>

#include "kernels/core/load.h"

namespace inflight::plan {

namespace {
size_t activation_bytes(const Plan& plan, const StepLimits& limits) {
  int64_t end = 0;
  for (const auto& [name, value] : plan.values) {
    end = std::max(end, value.offset + value.bytes(limits.max_num_tokens, limits.max_batch_size));
  }
  return static_cast<size_t>(end);
}
}  // namespace

Arena::Arena(const Plan& plan, const StepLimits& limits, Device device)
    : activations_(activation_bytes(plan, limits), device) {}

void Arena::reserve_workspace(size_t bytes) {
  if (bytes > workspace_.bytes()) workspace_ = Buffer(bytes, activations_.device());
}

void Arena::clear(const Stream& stream) const {
  for (const Buffer* buffer : {&activations_, &workspace_}) {
    fill_async(buffer->data(), 0, buffer->bytes(), stream);
  }
}

void Arena::fill_random(DType dtype, const Stream& stream) const {
  fill_random_async(activations_.data(), dtype,
                    static_cast<int64_t>(activations_.bytes() / size_of(dtype)),
                    RandomValues::normal(1, 1.0f), stream);
}

}  // namespace inflight::plan
