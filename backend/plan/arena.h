// The one activation buffer of a runner, and the scratch memory its ops share. Owns both; offsets
// come from the plan.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/plan/plan.h"
#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/op.h"

namespace inflight::plan {

class Arena {
 public:
  /// Holds the plan's values for steps up to `limits`. Offsets stay those of the plan, so smaller
  /// limits than the engine's only leave unused gaps.
  Arena(const Plan& plan, const StepLimits& limits, Device device);

  void* at(const ValueSpec& value) const {
    return static_cast<uint8_t*>(activations_.data()) + value.offset;
  }
  /// Makes the scratch memory at least `bytes` large; called at load only.
  void reserve_workspace(size_t bytes);
  /// Zeroes all of it on a CUDA device, in stream order, so that padded rows are numbers from the
  /// first step on.
  void clear(const Stream& stream) const;
  /// Fills the values of a CUDA device's plan with normal numbers of this dtype, in stream order.
  void fill_random(DType dtype, const Stream& stream) const;
  Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }
  int64_t bytes() const { return static_cast<int64_t>(activations_.bytes() + workspace_.bytes()); }

 private:
  Buffer activations_;
  Buffer workspace_;
};

}  // namespace inflight::plan
