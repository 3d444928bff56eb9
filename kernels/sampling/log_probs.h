// Log-probabilities of the drawn token and of the likeliest ones, under the distribution drawn
// from.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

/// Inputs but num_top's places are those and the results of `sample`. Rows with num_top = -1 or
/// without a token are left alone (top_counts 0).
struct LogProbsParams {
  TensorView logits;         // [B, V] float32, rows dense
  TensorView rows;           // [N] int32: the row of logits
  TensorView temperatures;   // [N] float32; 0 = greedy: the softmax of the logits as they are
  TensorView tokens;         // [R] int32, entry rows[i] of row i
  TensorView maxima;         // [N] float32
  TensorView log_sums;       // [N] float32
  TensorView num_kept;       // [N] int32
  TensorView chunk_maxima;   // as sample left them, or empty
  TensorView num_top;        // [N] int32: -1 = skip the row, else how many of the likeliest
  TensorView top_starts;     // [N + 1] int32: where a row's answers begin; room for num_top each
  TensorView log_probs;      // [N] float32, written: of tokens
  TensorView top_counts;     // [N] int32, written: at most num_top, less where fewer are possible
  TensorView top_ids;        // [M] int32, written: likeliest first, ties by id
  TensorView top_log_probs;  // [M] float32, written
};

/// On the CPU; none on CUDA.
size_t log_probs_workspace_bytes(int64_t vocab_size, int num_threads);
void log_probs(const LogProbsParams& params, OpContext& context);

namespace cuda {
void log_probs(const LogProbsParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
