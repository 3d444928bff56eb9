// Log-probabilities of tokens as rows of tensors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "backend/executor/request.h"

namespace inflight::triton {

/// Each token's own.
inline std::vector<float> chosen_log_probs(std::span<const executor::TokenLogProbs> tokens) {
  std::vector<float> chosen;
  chosen.reserve(tokens.size());
  for (const executor::TokenLogProbs& token : tokens) chosen.push_back(token.chosen);
  return chosen;
}

/// [tokens, count], likeliest first; id -1 and -inf where a token has fewer.
struct TopLogProbs {
  std::vector<int32_t> ids;
  std::vector<float> values;

  TopLogProbs(std::span<const executor::TokenLogProbs> tokens, int64_t count)
      : ids(tokens.size() * count, -1),
        values(ids.size(), -std::numeric_limits<float>::infinity()) {
    for (size_t at = 0; at < tokens.size(); ++at) {
      const auto& top = tokens[at].top;
      for (int64_t rank = 0; rank < std::min<int64_t>(count, top.size()); ++rank) {
        ids[at * count + rank] = top[rank].first;
        values[at * count + rank] = top[rank].second;
      }
    }
  }
};

}  // namespace inflight::triton
