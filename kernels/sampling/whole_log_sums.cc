#include "kernels/sampling/whole_log_sums.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"

namespace inflight {
namespace cpu {

void whole_log_sums(const WholeLogSumsParams& params, OpContext& context);

}  // namespace cpu

void whole_log_sums(const WholeLogSumsParams& p, OpContext& context) {
  check_logits("whole_log_sums", p.logits);
  const int64_t n = p.rows.shape[0], m = p.entries.shape[0];
  check_vector("whole_log_sums", "entries", p.entries, DType::kInt32, m);
  check_vector("whole_log_sums", "rows", p.rows, DType::kInt32, n);
  check_vector("whole_log_sums", "temperatures", p.temperatures, DType::kFloat32, n);
  check_tokens("whole_log_sums", p.tokens);
  check_vector("whole_log_sums", "maxima", p.maxima, DType::kFloat32, n);
  check_vector("whole_log_sums", "log_sums", p.log_sums, DType::kFloat32, n);
  check_vector("whole_log_sums", "num_kept", p.num_kept, DType::kInt32, n);
  if (m == 0) return;
  INFLIGHT_DISPATCH(whole_log_sums, p, context);
}

}  // namespace inflight
