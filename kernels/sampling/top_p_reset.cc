#include "kernels/sampling/top_p_reset.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"

namespace inflight {
namespace cpu {

void top_p_reset(const TopPResetParams& p, OpContext&) {
  for (int64_t i = 0; i < p.entries.shape[0]; ++i) {
    const int32_t token = p.previous_tokens.as<int32_t>()[p.newest.as<int32_t>()[i]];
    if (token != p.reset_ids.as<int32_t>()[i]) continue;
    p.top_ps.as<float>()[p.entries.as<int32_t>()[i]] = p.first_top_ps.as<float>()[i];
  }
}

}  // namespace cpu

void top_p_reset(const TopPResetParams& p, OpContext& context) {
  const int64_t m = p.entries.shape[0];
  check_vector("top_p_reset", "top_ps", p.top_ps, DType::kFloat32, p.top_ps.shape[0]);
  check_vector("top_p_reset", "entries", p.entries, DType::kInt32, m);
  check_vector("top_p_reset", "newest", p.newest, DType::kInt32, m);
  check_vector("top_p_reset", "reset_ids", p.reset_ids, DType::kInt32, m);
  check_vector("top_p_reset", "first_top_ps", p.first_top_ps, DType::kFloat32, m);
  if (m == 0) return;
  check_vector("top_p_reset", "previous_tokens", p.previous_tokens, DType::kInt32,
               p.previous_tokens.shape[0]);
  INFLIGHT_DISPATCH(top_p_reset, p, context);
}

}  // namespace inflight
