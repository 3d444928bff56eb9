// fused_linear out of rms_norm, linear, silu_mul and an addition, a panel of rows at a time: the
// rows between the steps lie in the workspace, which holds a panel of them.
#pragma once

#include "kernels/fused_linear/fused_linear.h"
#include "kernels/gemm/gemm.h"

namespace inflight {

/// What differs between devices.
struct ComposeSteps {
  /// y = residual + linear in one; false: nothing was done. May be null.
  bool (*linear_add)(const LinearParams& params, const TensorView& residual, OpContext& context);
  /// y = residual + y.
  void (*add)(const TensorView& residual, const TensorView& y, OpContext& context);
};

/// The rows between the steps of a panel, in this order at the start of the workspace.
struct PanelScratch {
  TensorView normed;   // [rows, K], dtype of x, where there is a norm
  TensorView gate_up;  // [rows, N], dtype of y, where there is a gate
  size_t bytes = 0;    // of both; the linear's own scratch follows
};
/// `workspace` may be null: then the sizes alone are meant.
PanelScratch panel_scratch(const FusedLinearParams& params, int64_t rows, void* workspace);

/// The linear of a panel whose scratch is `scratch`. Refers to all three.
LinearParams panel_linear(const FusedLinearParams& params, const PanelScratch& scratch,
                          const TensorView& x, const TensorView& y);

/// At most `max_rows` rows at a time, in panels of about the same height.
void compose(const FusedLinearParams& params, int64_t max_rows, const ComposeSteps& steps,
             const OpContext& context);

}  // namespace inflight
