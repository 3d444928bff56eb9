// fused_linear out of rms_norm, linear, silu_mul and an addition. The rows between the steps lie in
// the workspace; the widest, a gate's, a panel of them at a time.
#pragma once

#include "kernels/fused_linear/fused_linear.h"
#include "kernels/gemm/gemm.h"

namespace inflight {

/// What differs between devices. The first two may be null, or answer false with nothing done.
struct ComposeSteps {
  /// y = residual + linear.
  bool (*linear_add)(const LinearParams& params, const TensorView& residual, OpContext& context);
  /// y = silu_mul(linear).
  bool (*linear_silu_mul)(const LinearParams& params, OpContext& context);
  /// y = residual + y.
  void (*add)(const TensorView& residual, const TensorView& y, OpContext& context);
};

/// The rows between the steps, in this order at the start of the workspace.
struct Scratch {
  TensorView normed;   // [M, K], dtype of x, where there is a norm
  TensorView gate_up;  // [panel, N], dtype of y, where there is a gate
  size_t bytes = 0;    // of both; the linear's own scratch follows
};
/// `workspace` may be null: then the sizes alone are meant.
Scratch scratch_of(const FusedLinearParams& params, int64_t panel_rows, void* workspace);

/// The linear that needs the most scratch of its own. Refers to `params` and `scratch`.
LinearParams inner_linear(const FusedLinearParams& params, const Scratch& scratch);

/// A gate's panels have at most `max_panel_rows` rows and are about as high as each other.
void compose(const FusedLinearParams& params, int64_t max_panel_rows, const ComposeSteps& steps,
             const OpContext& context);

}  // namespace inflight
