#include "kernels/sampling/no_repeat_ngram.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"

namespace inflight {
namespace cpu {

void no_repeat_ngram(const NoRepeatNgramParams& params, OpContext& context);

}  // namespace cpu

void no_repeat_ngram(const NoRepeatNgramParams& p, OpContext& context) {
  check_logits("no_repeat_ngram", p.logits);
  const int64_t n = p.rows.shape[0];
  check_vector("no_repeat_ngram", "rows", p.rows, DType::kInt32, n);
  check_vector("no_repeat_ngram", "sizes", p.sizes, DType::kInt32, n);
  check_vector("no_repeat_ngram", "history", p.history, DType::kInt32, p.history.shape[0]);
  check_vector("no_repeat_ngram", "history_starts", p.history_starts, DType::kInt32, n + 1);
  if (p.previous_tokens.data != nullptr) {
    check_vector("no_repeat_ngram", "previous_tokens", p.previous_tokens, DType::kInt32,
                 p.previous_tokens.shape[0]);
  }
  if (n == 0) return;
  INFLIGHT_DISPATCH(no_repeat_ngram, p, context);
}

}  // namespace inflight
