// A linear with what stands before and after it in a layer: the norm of its input, the gate of the
// MLP, the residual stream. Composed of the ops that it stands for, of fewer kernels where there
// are such (kernels/gemm/gemm.h), and rounds where they do, or less often.
#pragma once

#include <span>

#include "kernels/core/op.h"

namespace inflight {

/// n = norm_weight ? rms_norm(x, norm_weight, epsilon) : x
/// s = n * weight^T + bias;  if is_gated, s = silu(s[:, :N/2]) * s[:, N/2:]
/// y = residual ? residual + s : s
struct FusedLinearParams {
  const TensorView& x;            // [M, K] floating
  const TensorView& weight;       // [N, K] floating
  const TensorView& bias;         // [N] floating, optional
  const TensorView& norm_weight;  // [K], dtype of x, optional
  const TensorView& residual;     // shape and dtype of y, optional
  const TensorView& y;            // [M, is_gated ? N / 2 : N] floating, overlapping no input
  float epsilon;                  // added to the mean square, where there is a norm
  bool is_gated;
};

void fused_linear(const FusedLinearParams& params, OpContext& context);
/// One after another, or several at once where one kernel does that.
void fused_linears(std::span<const FusedLinearParams> run, OpContext& context);

OpDef fused_linear_op();

namespace cpu {
void fused_linear(const FusedLinearParams& params, OpContext& context);
/// Scratch bytes for any number of rows up to params.x's.
size_t fused_linear_workspace_bytes(const FusedLinearParams& largest, int num_threads);
}  // namespace cpu

namespace cuda {
void fused_linear(const FusedLinearParams& params, OpContext& context);
/// As many of the first ones as one kernel does; returns how many: 0 where none does even one.
size_t fused_linears_at_once(std::span<const FusedLinearParams> run, OpContext& context);
/// Scratch bytes for any number of rows up to params.x's.
size_t fused_linear_workspace_bytes(const FusedLinearParams& largest);
}  // namespace cuda

}  // namespace inflight
