// The rows that a plan begins with and that need nothing but a step's ids and positions: embedding,
// then rope_table. In a step of few rows they take less time than the launches that they cost, so
// the kernel that moves the inputs does them, too.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "kernels/core/op_run.h"
#include "kernels/embedding/embedding.h"
#include "kernels/rope/rope_table.h"

namespace inflight {

/// Steps of more are better done by kernels of their own.
inline constexpr int kMaxOpeningTokens = 512;
/// Of the rope table: heads of up to 256 rotated dimensions.
inline constexpr int kMaxOpeningFrequencies = 128;

struct StepOpening {
  EmbeddingParams embedding;
  std::optional<RopeTableParams> rope_table;

  /// Of the plan.
  size_t num_rows() const { return rope_table ? 2 : 1; }
};

/// What rows of a plan begin with, if it is that: of these step inputs, in sizes that step_inputs
/// does.
std::optional<StepOpening> find_step_opening(std::span<const OpCall> rows,
                                             const TensorView& input_ids,
                                             const TensorView& positions,
                                             const TensorView& rope_lengths);

}  // namespace inflight
