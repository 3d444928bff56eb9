// What a request adds to the logits of every step, as the list of the ids that it concerns.
#pragma once

#include <vector>

#include "backend/decoding/sampling_params.h"

namespace inflight::decoding {

/// embedding_bias and logit_bias in one, ids ascending and distinct, zeros left out. `params` is
/// validated.
std::vector<TokenBias> biases_of(const SamplingParams& params);

}  // namespace inflight::decoding
