#include "kernels/sampling/penalties.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight {
namespace cpu {

void penalties(const PenaltiesParams& params, OpContext& context);

}  // namespace cpu

size_t penalties_workspace_bytes(int64_t vocab_size, int num_threads) {
  return cpu::Carver::bytes_of<int32_t>(vocab_size) * num_threads;
}

void penalties(const PenaltiesParams& p, OpContext& context) {
  check_logits("penalties", p.logits);
  const int64_t n = p.rows.shape[0];
  check_vector("penalties", "rows", p.rows, DType::kInt32, n);
  check_vector("penalties", "repetition", p.repetition, DType::kFloat32, n);
  check_vector("penalties", "presence", p.presence, DType::kFloat32, n);
  check_vector("penalties", "frequency", p.frequency, DType::kFloat32, n);
  check_vector("penalties", "history", p.history, DType::kInt32, p.history.shape[0]);
  check_vector("penalties", "history_starts", p.history_starts, DType::kInt32, n + 1);
  check_vector("penalties", "generated_starts", p.generated_starts, DType::kInt32, n);
  if (p.previous_tokens.data != nullptr) {
    check_vector("penalties", "previous_tokens", p.previous_tokens, DType::kInt32,
                 p.previous_tokens.shape[0]);
  }
  check_vector("penalties", "banned", p.banned, DType::kInt32, p.banned.shape[0]);
  check_vector("penalties", "banned_starts", p.banned_starts, DType::kInt32, n + 1);
  if (n == 0) return;
  check_workspace("penalties", context,
                  penalties_workspace_bytes(p.logits.shape[1], cpu::num_threads_of(context)));
  INFLIGHT_DISPATCH(penalties, p, context);
}

}  // namespace inflight
