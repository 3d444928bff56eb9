#include <limits>

#include "kernels/sampling/no_repeat_ngram.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight::cpu {

void no_repeat_ngram(const NoRepeatNgramParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  const int64_t num_previous =
      params.previous_tokens.rank == 1 ? params.previous_tokens.shape[0] : 0;
  for_each_row(context, params.rows.shape[0], length, [&](int64_t i, int) {
    float* row =
        params.logits.as<float>() + params.rows.as<int32_t>()[i] * params.logits.strides[0];
    const int64_t begin = params.history_starts.as<int32_t>()[i];
    const int64_t end = params.history_starts.as<int32_t>()[i + 1];
    const int64_t prefix = params.sizes.as<int32_t>()[i] - 1;
    const auto id_at = [&](int64_t at) {
      const int32_t id = params.history.as<int32_t>()[at];
      return id < 0 && ~id < num_previous ? params.previous_tokens.as<int32_t>()[~id] : id;
    };
    for (int64_t at = begin; at < end - prefix; ++at) {
      int64_t matched = 0;
      while (matched < prefix && id_at(at + matched) == id_at(end - prefix + matched)) ++matched;
      if (matched < prefix) continue;
      const int32_t id = id_at(at + prefix);
      if (id >= 0 && id < length) row[id] = -std::numeric_limits<float>::infinity();
    }
  });
}

}  // namespace inflight::cpu
