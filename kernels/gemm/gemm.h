// Matrix products with weights: y = x * weight^T + bias, accumulated in float32.
#pragma once

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
/// Scratch bytes for any number of rows.
size_t linear_workspace_bytes(const LinearParams& largest);
}  // namespace cuda

}  // namespace inflight
