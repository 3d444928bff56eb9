// Root-mean-square norm of each row, alone or of the sum with the residual stream. Computed in
// float32; the normalised value is rounded to the dtype before it meets the weight, as in
// transformers.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct RmsNormParams {
  const TensorView& x;       // [T, H] floating
  const TensorView& weight;  // [H], dtype of x
  const TensorView& y;       // [T, H], dtype of x; may be x
  float epsilon;             // added to the mean square
};

struct AddRmsNormParams {
  const TensorView& x;         // [T, H] floating
  const TensorView& residual;  // [T, H], dtype of x
  const TensorView& weight;    // [H], dtype of x
  const TensorView& y;         // [T, H], dtype of x: the norm of the rounded sum
  const TensorView& sum;       // [T, H], dtype of x, optional: x + residual; may be either of them
  float epsilon;
};

void rms_norm(const RmsNormParams& params, OpContext& context);
void add_rms_norm(const AddRmsNormParams& params, OpContext& context);

OpDef rms_norm_op();
OpDef add_rms_norm_op();

namespace cpu {
void rms_norm(const RmsNormParams& params, OpContext& context);
void add_rms_norm(const AddRmsNormParams& params, OpContext& context);
}  // namespace cpu

namespace cuda {
void rms_norm(const RmsNormParams& params, OpContext& context);
void add_rms_norm(const AddRmsNormParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
