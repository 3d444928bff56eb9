#include "backend/decoding/top_p_decay.h"

#include <algorithm>
#include <cmath>

namespace inflight::decoding {

float top_p_after(const SamplingParams& params, std::span<const int32_t> generated_ids,
                  int num_unknown) {
  if (!has_top_p_decay(params)) return params.top_p;
  // No id is -1, which resets nothing.
  const auto reset = std::find(generated_ids.rbegin(), generated_ids.rend(), params.top_p_reset_id);
  const auto num_since = (reset - generated_ids.rbegin()) + num_unknown;
  if (num_since == 0) return params.top_p;
  const double decayed = params.top_p * std::pow(static_cast<double>(params.top_p_decay),
                                                 static_cast<double>(num_since));
  // A nucleus of no mass holds the likeliest token all the same.
  return std::max({params.top_p_min, static_cast<float>(decayed), 1e-30f});
}

}  // namespace inflight::decoding
