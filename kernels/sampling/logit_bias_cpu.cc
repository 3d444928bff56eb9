#include "kernels/sampling/logit_bias.h"

namespace inflight::cpu {

/// On the calling thread: at the most a pass over what the host has just written.
void logit_bias(const LogitBiasParams& params, OpContext&) {
  const int64_t length = params.logits.shape[1];
  const auto* ids = params.ids.as<int32_t>();
  const auto* biases = params.biases.as<float>();
  const auto* starts = params.starts.as<int32_t>();
  for (int64_t i = 0; i < params.rows.shape[0]; ++i) {
    float* row =
        params.logits.as<float>() + params.rows.as<int32_t>()[i] * params.logits.strides[0];
    for (int32_t at = starts[i]; at < starts[i + 1]; ++at) {
      if (ids[at] >= 0 && ids[at] < length) row[ids[at]] += biases[at];
    }
  }
}

}  // namespace inflight::cpu
