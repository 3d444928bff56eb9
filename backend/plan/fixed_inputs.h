// The step inputs at addresses that never change, on a device where steps are recorded. Owns them.
#pragma once

#include <cstdint>

#include "backend/plan/plan.h"
#include "backend/plan/step_inputs.h"
#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/op.h"
#include "kernels/step_inputs/step_opening.h"

namespace inflight::plan {

class FixedInputs {
 public:
  /// Zeroed in stream order. For steps of `num_groups` groups of layers.
  FixedInputs(const StepLimits& limits, int max_blocks_per_sequence, int num_groups,
              const Stream& stream);

  /// The views of a step of these sizes, tables with at most max_blocks_per_sequence columns, over
  /// whatever lies here; zeros before the first move.
  const StepInputs& shaped(int num_tokens, int num_sequences, int num_columns);

  /// Moves a step here in stream order, padded to the sizes last asked for: to more sequences, with
  /// a row each, or to more rows, which are no sequence's; tables of as many columns or more. And
  /// does the opening, if there is one. One launch.
  void move(const StepInputs& staged, const StepOpening* opening, OpContext& context) const;

  int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }

 private:
  Buffer memory_;
  StepInputs views_;
};

}  // namespace inflight::plan
