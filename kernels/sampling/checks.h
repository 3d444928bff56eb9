// Preconditions that the faces of the sampling ops share.
#pragma once

#include <string_view>

#include "kernels/core/check.h"
#include "kernels/core/op.h"

namespace inflight {

inline void check_logits(std::string_view op, const TensorView& logits) {
  check(logits.rank == 2, op, ": logits must have rank 2, not ", logits.rank);
  check(logits.dtype == DType::kFloat32, op, ": logits must be float32, not ",
        name_of(logits.dtype));
  check(logits.shape[1] >= 1 && logits.shape[1] <= INT32_MAX, op, ": logits has ", logits.shape[1],
        " columns; at least 1 and at most 2147483647 are possible");
  check(logits.shape[1] == 1 || logits.strides[1] == 1, op, ": the rows of logits are not dense");
}

inline void check_vector(std::string_view op, std::string_view name, const TensorView& view,
                         DType dtype, int64_t length) {
  check(view.rank == 1 && view.dtype == dtype, op, ": ", name, " must be ", name_of(dtype),
        " of rank 1, not ", name_of(view.dtype), " of rank ", view.rank);
  check(view.shape[0] == length, op, ": ", name, " has ", view.shape[0], " elements, not ", length);
  check(length <= 1 || view.strides[0] == 1, op, ": ", name, " is not dense");
}

/// Tokens stand at the places of their rows of logits.
inline void check_tokens(std::string_view op, const TensorView& tokens) {
  check_vector(op, "tokens", tokens, DType::kInt32, tokens.shape[0]);
}

/// The CUDA kernels need none.
inline void check_workspace(std::string_view op, const OpContext& context, size_t bytes) {
  if (context.device.type == DeviceType::kCuda) return;
  check(context.workspace.bytes >= bytes, op, ": the workspace has ", context.workspace.bytes,
        " bytes, ", bytes, " are needed");
}

}  // namespace inflight
