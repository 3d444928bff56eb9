// The one activation buffer of a runner, the scratch memory its ops share and what runs of them
// keep. Owns all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "backend/plan/plan.h"
#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/op.h"

namespace inflight::plan {

/// Where `values`, whose offsets were planned for steps up to `planned`, lie in an arena for steps
/// up to `limits` at most as large: in the same order, drawn together. What shared no byte in the
/// plan shares none here. Multiples of 64.
ByName<int64_t> drawn_together(const ByName<ValueSpec>& values, const StepLimits& planned,
                               const StepLimits& limits);

class Arena {
 public:
  /// Holds `values`, planned for steps up to `planned`, for steps up to `limits`.
  Arena(const ByName<ValueSpec>& values, const StepLimits& planned, const StepLimits& limits,
        Device device);

  /// Where the value called `name` begins.
  void* at(std::string_view name) const {
    return static_cast<uint8_t*>(activations_.data()) + offsets_.find(name)->second;
  }
  /// Makes the scratch memory at least `bytes` large; called at load only.
  void reserve_workspace(size_t bytes);
  /// The same for what runs of rows keep from step to step (OpRun).
  void reserve_run_memory(size_t bytes);
  /// Zeroes all of it on a CUDA device, in stream order, so that padded rows are numbers from the
  /// first step on.
  void clear(const Stream& stream) const;
  /// Fills the values of a CUDA device's plan with normal numbers of this dtype, in stream order.
  void fill_random(DType dtype, const Stream& stream) const;
  Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }
  void* run_memory() const { return run_memory_.data(); }
  int64_t bytes() const {
    return static_cast<int64_t>(activations_.bytes() + workspace_.bytes() + run_memory_.bytes());
  }

 private:
  ByName<int64_t> offsets_;
  Buffer activations_;
  Buffer workspace_;
  Buffer run_memory_;
};

}  // namespace inflight::plan
