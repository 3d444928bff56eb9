// Changes logits by what was already said, and bans ids: in place, before any temperature.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

/// For each row, in this order:
///   repetition  every distinct id of the history once: logit / r if logit > 0, else logit * r
///               (RepetitionPenaltyLogitsProcessor of transformers)
///   presence    every id generated at least once: logit - p
///   frequency   every generated id: logit - f * (times generated)        (OpenAI, vLLM)
///   banned      logit = -infinity
/// A negative history id i stands for previous_tokens[~i], where there is such an entry. History
/// ids outside [0, V) count for nothing; banned ids outside it are ignored.
struct PenaltiesParams {
  TensorView logits;            // [B, V] float32, rows dense; changed in place
  TensorView rows;              // [N] int32: the row of logits; each at most once
  TensorView repetition;        // [N] float32; 1 = off
  TensorView presence;          // [N] float32; 0 = off
  TensorView frequency;         // [N] float32; 0 = off
  TensorView history;           // [H] int32: prompt ids then generated ids, entry after entry
  TensorView history_starts;    // [N + 1] int32, offsets into history
  TensorView generated_starts;  // [N] int32, offset of the first generated id
  TensorView previous_tokens;   // [P] int32: ids drawn last that the host does not know; P may be 0
  TensorView banned;            // [K] int32
  TensorView banned_starts;     // [N + 1] int32, offsets into banned
};

/// On the CPU; none on CUDA.
size_t penalties_workspace_bytes(int64_t vocab_size, int num_threads);
void penalties(const PenaltiesParams& params, OpContext& context);

namespace cuda {
void penalties(const PenaltiesParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
