#include "backend/decoding/biases.h"

#include <algorithm>

namespace inflight::decoding {

std::vector<TokenBias> biases_of(const SamplingParams& params) {
  std::vector<TokenBias> sparse = params.logit_bias;
  std::ranges::sort(sparse, {}, &TokenBias::id);
  if (params.embedding_bias.empty()) {
    std::erase_if(sparse, [](const TokenBias& entry) { return entry.bias == 0.0f; });
    return sparse;
  }
  std::vector<TokenBias> all;
  auto next = sparse.begin();
  for (int32_t id = 0; id < static_cast<int32_t>(params.embedding_bias.size()); ++id) {
    float bias = params.embedding_bias[id];
    if (next != sparse.end() && next->id == id) bias += (next++)->bias;
    if (bias != 0.0f) all.push_back({id, bias});
  }
  return all;
}

}  // namespace inflight::decoding
