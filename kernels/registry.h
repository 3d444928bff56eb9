// The table of all ops: name -> OpDef. Explicit, one line per op.
#pragma once

#include <span>
#include <string_view>

#include "kernels/core/op.h"

namespace inflight {

/// The op called `name`, or null.
const OpDef* find_op(std::string_view name);

std::span<const OpDef> all_ops();

}  // namespace inflight
