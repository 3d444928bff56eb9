// The table of all ops: name -> OpDef. Explicit, one line per op. And what does rows of several ops
// at once.
#pragma once

#include <span>
#include <string_view>

#include "kernels/core/op_run.h"

namespace inflight {

/// The op called `name`, or null.
const OpDef* find_op(std::string_view name);

std::span<const OpDef> all_ops();

/// What does the first of these rows of a plan as one call; those behind them tell what else is
/// read of what they make.
OpRun find_run(std::span<const OpCall> rows);

}  // namespace inflight
