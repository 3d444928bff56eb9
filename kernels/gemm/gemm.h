// Matrix products with weights: y = x * weight^T + bias, accumulated in float32.
#pragma once

#include <span>

#include "kernels/core/op.h"

namespace inflight {

struct LinearParams {
  const TensorView& x;       // [M, K] floating
  const TensorView& weight;  // [N, K] floating
  const TensorView& bias;    // [N] floating, optional
  const TensorView& y;       // [M, N] floating, not overlapping x
};

void linear(const LinearParams& params, OpContext& context);

OpDef linear_op();

namespace cpu {
void linear(const LinearParams& params, OpContext& context);
/// Scratch bytes for any number of rows up to params.x's.
size_t linear_workspace_bytes(const LinearParams& largest, int num_threads);
}  // namespace cpu

namespace cuda {
void linear(const LinearParams& params, OpContext& context);
/// y = residual + linear, where one kernel does that: up to 128 rows on Hopper, rounded as the two
/// ops do, or rounded once where cuBLASLt serves. `residual` has y's shape and dtype and may be y.
/// Needs linear_workspace_bytes. False: nothing was done.
bool linear_add(const LinearParams& params, const TensorView& residual, OpContext& context);
/// y [M, N / 2] = silu(s[:, :N/2]) * s[:, N/2:] where s is the linear, rounded as the two ops do,
/// in one kernel without scratch: few or many rows on Hopper. False: nothing was done.
bool linear_silu_mul(const LinearParams& params, OpContext& context);
/// Scratch bytes for any number of rows.
size_t linear_workspace_bytes(const LinearParams& largest);

/// A linear with what stands before and after it:
///   n = norm_weight ? rms_norm(x, norm_weight, epsilon) : x
///   s = n * weight^T + bias;  if is_gated, s = silu(s[:, :N/2]) * s[:, N/2:]
///   y = residual ? residual + s : s
/// Roundings are those of the ops it stands for.
struct FusedProductParams {
  const LinearParams linear;      // y [M, is_gated ? N / 2 : N], not overlapping x
  const TensorView& norm_weight;  // [K], dtype of x, optional
  float epsilon;                  // added to the mean square
  const TensorView& residual;     // shape and dtype of y, optional; may be y
  bool is_gated;
};

/// The first of them in one kernel; the first two in one each, where the second is a norm of the
/// first's y and its product, which share the norm's work then; or as many as go in one where
/// OpContext::grids_may_wait, each of which may read what those before it make. Returns how many
/// that were: 0 where there is no such kernel. There are some for few rows on Hopper; with a norm
/// of bfloat16, that of the first for up to four rows where grids may wait. Scratch is what there
/// is in the context: at least the norm's rows and linear_workspace_bytes, or it is not shared.
size_t fused_products(std::span<const FusedProductParams> products, OpContext& context);
}  // namespace cuda

}  // namespace inflight
