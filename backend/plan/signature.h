// A plan row against the signature of its op, so that a wrong engine file names the argument.
#pragma once

#include "backend/plan/plan.h"
#include "kernels/core/op.h"

namespace inflight::plan {

/// Raises invalid_argument if the row lacks an argument, has one that the op does not know, or an
/// attribute of another type.
void check_signature(const OpRow& row, const OpSignature& signature);

}  // namespace inflight::plan
