#include "kernels/sampling/argmax.h"

#include "kernels/core/check.h"
#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight {
namespace cpu {

void argmax(const ArgmaxParams& params, OpContext& context);

}  // namespace cpu

size_t argmax_workspace_bytes(int64_t vocab_size, int num_threads) {
  return cpu::Carver::bytes_of<float>(cpu::num_row_blocks(vocab_size)) * num_threads;
}

void argmax(const ArgmaxParams& p, OpContext& context) {
  check_logits("argmax", p.logits);
  const int64_t n = p.logits.shape[0];
  check_tokens("argmax", p.tokens);
  check(p.tokens.shape[0] >= n, "argmax: ", p.tokens.shape[0], " tokens for ", n,
        " rows of logits");
  if (n == 0) return;
  check_workspace("argmax", context,
                  argmax_workspace_bytes(p.logits.shape[1], cpu::num_threads_of(context)));
  INFLIGHT_DISPATCH(argmax, p, context);
}

}  // namespace inflight
