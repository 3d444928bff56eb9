#include "backend/decoding/stop.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::decoding {
namespace {

bool ends_with(std::span<const int32_t> ids, std::span<const int32_t> suffix) {
  return suffix.size() <= ids.size() && std::ranges::equal(ids.last(suffix.size()), suffix);
}

}  // namespace

Stop stop_after(const StopParams& params, std::span<const int32_t> generated_ids,
                int max_new_tokens) {
  if (generated_ids.empty()) return {};
  const int64_t count = static_cast<int64_t>(generated_ids.size());
  if (count - 1 >= params.min_new_tokens &&
      std::ranges::find(params.end_ids, generated_ids.back()) != params.end_ids.end()) {
    return {StopReason::kEndId, generated_ids.last(1)};
  }
  if (count >= params.min_new_tokens) {
    for (const auto& word : params.stop_words) {
      if (ends_with(generated_ids, word)) return {StopReason::kStopWord, word};
    }
  }
  if (count >= max_new_tokens) return {StopReason::kLength, {}};
  return {};
}

void append_banned_ids(const StopParams& params, std::span<const int32_t> generated_ids,
                       std::vector<int32_t>& banned, int num_unknown) {
  for (const auto& word : params.bad_words) {
    const std::span<const int32_t> ids(word);
    check_internal(num_unknown == 0 || ids.size() == 1,
                   "a bad word of several ids needs the newest token on the host");
    if (ends_with(generated_ids, ids.first(ids.size() - 1))) banned.push_back(ids.back());
  }
  if (static_cast<int64_t>(generated_ids.size()) + num_unknown < params.min_new_tokens) {
    banned.insert(banned.end(), params.end_ids.begin(), params.end_ids.end());
  }
}

}  // namespace inflight::decoding
