#include <limits>
#include <span>

#include "kernels/sampling/penalties.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight::cpu {
namespace {

std::span<const int32_t> slice(const TensorView& values, int64_t begin, int64_t end) {
  return {values.as<int32_t>() + begin, values.as<int32_t>() + end};
}

}  // namespace

void penalties(const PenaltiesParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  const size_t scratch_bytes = Carver::bytes_of<int32_t>(length);
  for_each_row(context, params.rows.shape[0], length, [&](int64_t i, int thread) {
    float* row =
        params.logits.as<float>() + params.rows.as<int32_t>()[i] * params.logits.strides[0];
    // Times an id was generated; kDone once its logit is changed. Only cells of ids in the history
    // are ever read, and these are set first.
    int32_t* counts =
        Carver(static_cast<std::byte*>(context.workspace.data) + thread * scratch_bytes)
            .take<int32_t>(length);
    constexpr int32_t kDone = -1;
    const auto is_known = [length](int32_t id) { return id >= 0 && id < length; };
    const int64_t num_previous =
        params.previous_tokens.rank == 1 ? params.previous_tokens.shape[0] : 0;
    const auto resolved = [&](int32_t id) {
      return id < 0 && ~id < num_previous ? params.previous_tokens.as<int32_t>()[~id] : id;
    };
    const int32_t* starts = params.history_starts.as<int32_t>() + i;
    const std::span history = slice(params.history, starts[0], starts[1]);
    for (int32_t known_or_not : history) {
      const int32_t id = resolved(known_or_not);
      if (is_known(id)) counts[id] = 0;
    }
    for (int32_t known_or_not :
         slice(params.history, params.generated_starts.as<int32_t>()[i], starts[1])) {
      const int32_t id = resolved(known_or_not);
      if (is_known(id)) ++counts[id];
    }
    const float repetition = params.repetition.as<float>()[i];
    const float presence = params.presence.as<float>()[i];
    const float frequency = params.frequency.as<float>()[i];
    for (int32_t known_or_not : history) {
      const int32_t id = resolved(known_or_not);
      if (!is_known(id) || counts[id] == kDone) continue;
      float logit = row[id];
      logit = logit > 0 ? logit / repetition : logit * repetition;
      if (counts[id] > 0) logit -= presence + frequency * static_cast<float>(counts[id]);
      row[id] = logit;
      counts[id] = kDone;
    }
    const int32_t* banned_starts = params.banned_starts.as<int32_t>() + i;
    for (int32_t id : slice(params.banned, banned_starts[0], banned_starts[1])) {
      if (is_known(id)) row[id] = -std::numeric_limits<float>::infinity();
    }
  });
}

}  // namespace inflight::cpu
