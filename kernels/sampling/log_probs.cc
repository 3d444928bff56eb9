#include "kernels/sampling/log_probs.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight {
namespace cpu {

size_t log_probs_workspace_bytes(int64_t vocab_size);  // of one thread
void log_probs(const LogProbsParams& params, OpContext& context);

}  // namespace cpu

size_t log_probs_workspace_bytes(int64_t vocab_size, int num_threads) {
  return cpu::log_probs_workspace_bytes(vocab_size) * num_threads;
}

void log_probs(const LogProbsParams& p, OpContext& context) {
  check_logits("log_probs", p.logits);
  const int64_t n = p.rows.shape[0];
  check_vector("log_probs", "rows", p.rows, DType::kInt32, n);
  check_vector("log_probs", "temperatures", p.temperatures, DType::kFloat32, n);
  check_tokens("log_probs", p.tokens);
  check_vector("log_probs", "maxima", p.maxima, DType::kFloat32, n);
  check_vector("log_probs", "log_sums", p.log_sums, DType::kFloat32, n);
  check_vector("log_probs", "num_kept", p.num_kept, DType::kInt32, n);
  check_vector("log_probs", "num_top", p.num_top, DType::kInt32, n);
  check_vector("log_probs", "top_starts", p.top_starts, DType::kInt32, n + 1);
  check_vector("log_probs", "log_probs", p.log_probs, DType::kFloat32, n);
  check_vector("log_probs", "top_counts", p.top_counts, DType::kInt32, n);
  const int64_t m = p.top_ids.shape[0];
  check_vector("log_probs", "top_ids", p.top_ids, DType::kInt32, m);
  check_vector("log_probs", "top_log_probs", p.top_log_probs, DType::kFloat32, m);
  if (n == 0) return;
  check_workspace("log_probs", context,
                  log_probs_workspace_bytes(p.logits.shape[1], cpu::num_threads_of(context)));
  INFLIGHT_DISPATCH(log_probs, p, context);
}

}  // namespace inflight
