// Rows of several ops that follow each other in a plan and that, in some steps, one call does.
#pragma once

#include <cstddef>
#include <functional>

#include "kernels/core/op.h"

namespace inflight {

/// A row of a plan.
struct OpCall {
  const OpDef* op;
  OpArgs args;
};

struct OpRun {
  size_t num_rows = 0;      // 0: there is no such call
  size_t memory_bytes = 0;  // that the call needs on the device
  /// False: not in this step, nothing was done. The memory is for runs of one stream alone, which
  /// may share it: zero before the first one, and each leaves zeros.
  std::function<bool(OpContext& context, void* memory)> call;
};

}  // namespace inflight
