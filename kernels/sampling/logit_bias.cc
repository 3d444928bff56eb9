#include "kernels/sampling/logit_bias.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"

namespace inflight {
namespace cpu {

void logit_bias(const LogitBiasParams& params, OpContext& context);

}  // namespace cpu

void logit_bias(const LogitBiasParams& p, OpContext& context) {
  check_logits("logit_bias", p.logits);
  const int64_t n = p.rows.shape[0], k = p.ids.shape[0];
  check_vector("logit_bias", "rows", p.rows, DType::kInt32, n);
  check_vector("logit_bias", "ids", p.ids, DType::kInt32, k);
  check_vector("logit_bias", "biases", p.biases, DType::kFloat32, k);
  check_vector("logit_bias", "starts", p.starts, DType::kInt32, n + 1);
  if (n == 0) return;
  INFLIGHT_DISPATCH(logit_bias, p, context);
}

}  // namespace inflight
