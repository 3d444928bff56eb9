// Moves a step's inputs from where the host staged them to arrays at fixed addresses, where
// recorded launches look for them, and does what a plan begins with (step_opening.h). The runner
// calls it before the plan's rows; no plan names it.
#pragma once

#include <array>

#include "kernels/core/op.h"
#include "kernels/step_inputs/step_opening.h"

namespace inflight {

/// Layers that see different windows have caches of their own: slots and block tables beside the
/// step's first ones.
struct StepGroupArrays {
  const TensorView* slots = nullptr;         // [T]
  const TensorView* block_tables = nullptr;  // [B, columns]
};
inline constexpr int kMaxMoreStepGroups = 7;

/// All int32, dense. T rows of B sequences.
struct StepArrays {
  const TensorView& input_ids;                                       // [T]
  const TensorView& positions;                                       // [T]
  const TensorView& rope_lengths;                                    // [T]
  const TensorView& slots;                                           // [T]
  const TensorView& query_starts;                                    // [B + 1]
  const TensorView& kv_lengths;                                      // [B]
  const TensorView& block_tables;                                    // [B, columns]
  const TensorView& last_rows;                                       // [B]
  std::array<StepGroupArrays, kMaxMoreStepGroups> more_groups = {};  // nulls behind the last one

  int num_more_groups() const {
    int count = 0;
    while (count < kMaxMoreStepGroups && more_groups[count].slots != nullptr) ++count;
    return count;
  }
};

struct StepInputsParams {
  const StepArrays& from;
  const StepArrays& to;  // as many rows and sequences, or as many more of each, or more rows
  const TensorView& previous_tokens;  // [any] int32 or empty
  // Null, or what reads `to`'s ids and positions, at most kMaxOpeningTokens.
  const StepOpening* opening = nullptr;
};

/// An input id ~i (-1 - i) is replaced by previous_tokens[i]. Of the block tables the columns of
/// `from` are copied; those behind keep what they hold. Each sequence more than `from` has is one
/// row of token 0 at position 0, with slot -1 and nothing in its cache: ops write nothing of it
/// into the cache and it sees nothing. Such rows without a sequence stand behind the last one's;
/// attention leaves them out. Then the opening's rows, of what was moved.
void step_inputs(const StepInputsParams& params, OpContext& context);

namespace cpu {
void step_inputs(const StepInputsParams& params, OpContext& context);
}

namespace cuda {
void step_inputs(const StepInputsParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
