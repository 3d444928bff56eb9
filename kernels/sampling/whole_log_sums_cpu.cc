#include <cmath>

#include "kernels/sampling/row_cpu.h"
#include "kernels/sampling/whole_log_sums.h"

namespace inflight::cpu {

void whole_log_sums(const WholeLogSumsParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  for_each_row(context, params.entries.shape[0], length, [&](int64_t entry, int) {
    const int64_t i = params.entries.as<int32_t>()[entry];
    const int64_t place = params.rows.as<int32_t>()[i];
    if (params.tokens.as<int32_t>()[place] < 0) return;
    const float* row = params.logits.as<float>() + place * params.logits.strides[0];
    const float temperature = params.temperatures.as<float>()[i];
    const double sum = exp_weights(row, length, params.maxima.as<float>()[i],
                                   temperature == 0.0f ? 1.0f : temperature, nullptr);
    params.log_sums.as<float>()[i] = static_cast<float>(std::log(sum));
    params.num_kept.as<int32_t>()[i] = static_cast<int32_t>(length);
  });
}

}  // namespace inflight::cpu
