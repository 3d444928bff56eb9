#include "kernels/sampling/sample.h"

#include "kernels/core/dispatch.h"
#include "kernels/sampling/checks.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight {
namespace cpu {

size_t sample_workspace_bytes(int64_t vocab_size);  // of one thread
void sample(const SampleParams& params, OpContext& context);

}  // namespace cpu

size_t sample_workspace_bytes(int64_t vocab_size, int num_threads) {
  return cpu::sample_workspace_bytes(vocab_size) * num_threads;
}

void sample(const SampleParams& p, OpContext& context) {
  check_logits("sample", p.logits);
  const int64_t n = p.rows.shape[0];
  check_vector("sample", "rows", p.rows, DType::kInt32, n);
  check_vector("sample", "temperatures", p.temperatures, DType::kFloat32, n);
  check_vector("sample", "top_ks", p.top_ks, DType::kInt32, n);
  check_vector("sample", "top_ps", p.top_ps, DType::kFloat32, n);
  check_vector("sample", "min_ps", p.min_ps, DType::kFloat32, n);
  check_vector("sample", "seeds", p.seeds, DType::kInt64, n);
  check_vector("sample", "positions", p.positions, DType::kInt64, n);
  check_vector("sample", "num_top", p.num_top, DType::kInt32, n);
  check_tokens("sample", p.tokens);
  check_vector("sample", "maxima", p.maxima, DType::kFloat32, n);
  check_vector("sample", "log_sums", p.log_sums, DType::kFloat32, n);
  check_vector("sample", "num_kept", p.num_kept, DType::kInt32, n);
  if (n == 0) return;
  check_workspace("sample", context,
                  sample_workspace_bytes(p.logits.shape[1], cpu::num_threads_of(context)));
  INFLIGHT_DISPATCH(sample, p, context);
}

}  // namespace inflight
