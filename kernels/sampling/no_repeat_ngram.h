// Bans every id that would repeat an n-gram of what was said before.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

/// For each row: where the newest size - 1 ids of its history stand earlier in it, the id that
/// followed them gets logit -infinity (NoRepeatNGramLogitsProcessor of transformers; Paulus, Xiong
/// and Socher 2017). Size 1 bans all of the history. A negative history id i stands for
/// previous_tokens[~i], where there is such an entry; ids outside [0, V) are not banned.
struct NoRepeatNgramParams {
  TensorView logits;           // [B, V] float32, rows dense; changed in place
  TensorView rows;             // [N] int32: the row of logits; each at most once
  TensorView sizes;            // [N] int32, >= 1: the n-grams' lengths
  TensorView history;          // [H] int32: prompt ids then generated ids, entry after entry
  TensorView history_starts;   // [N + 1] int32, offsets into history
  TensorView previous_tokens;  // [P] int32: ids drawn last that the host does not know; P may be 0
};

void no_repeat_ngram(const NoRepeatNgramParams& params, OpContext& context);

namespace cuda {
void no_repeat_ngram(const NoRepeatNgramParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
