// Log-probabilities before the filters: the sum of all weights in the place of the kept ones.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

/// Between `sample` and `log_probs`, for the entries named: log_sums[i] becomes the logarithm of
/// the sum of exp((logit - maximum) / t) over all ids, num_kept[i] = V. Rows without a token are
/// left alone.
struct WholeLogSumsParams {
  TensorView logits;        // [B, V] float32, rows dense
  TensorView entries;       // [M] int32, each in [0, N) and at most once
  TensorView rows;          // [N] int32: the row of logits
  TensorView temperatures;  // [N] float32; 0 = 1
  TensorView tokens;        // [R] int32, entry rows[i] of row i
  TensorView maxima;        // [N] float32, as sample left them
  TensorView log_sums;      // [N] float32, written
  TensorView num_kept;      // [N] int32, written
};

void whole_log_sums(const WholeLogSumsParams& params, OpContext& context);

namespace cuda {
void whole_log_sums(const WholeLogSumsParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
