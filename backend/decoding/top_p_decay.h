// Factual nucleus sampling: top_p shrinks from token to token and starts anew after a chosen one,
// such as the end of a sentence. (Lee et al., "Factuality Enhanced Language Models for Open-Ended
// Text Generation", NeurIPS 2022.)
#pragma once

#include <cstdint>
#include <span>

#include "backend/decoding/sampling_params.h"

namespace inflight::decoding {

inline bool has_top_p_decay(const SamplingParams& params) { return params.top_p_decay != 1.0f; }

/// The top_p of the token that follows `generated_ids` and `num_unknown` more, which are taken for
/// none that resets: top_p after no token, or right after a reset; else
/// max(top_p_min, top_p * top_p_decay^n) for n tokens since.
float top_p_after(const SamplingParams& params, std::span<const int32_t> generated_ids,
                  int num_unknown);

}  // namespace inflight::decoding
