// When a sequence ends and which ids it may not say next: pure functions of ids. Generated ids
// only; a word never matches across the prompt's end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/decoding/sampling_params.h"

namespace inflight::decoding {

enum class StopReason : uint8_t { kNone, kEndId, kStopWord, kLength };

struct Stop {
  StopReason reason = StopReason::kNone;
  std::span<const int32_t> matched;  // kEndId: the id; kStopWord: the word; of the two arguments
};

/// Asked after each token: `generated_ids` ends with it. In this order:
///   kEndId     it is an end id and at least min_new_tokens came before it. The caller takes it off
///              the output; it does not count as a generated token.
///   kStopWord  the ids end with a stop word, and are at least min_new_tokens. The word stays.
///   kLength    there are `max_new_tokens`: the smaller of the request's and what the longest
///              sequence leaves.
Stop stop_after(const StopParams& params, std::span<const int32_t> generated_ids,
                int max_new_tokens);

/// Appends to `banned` the ids that may not follow `generated_ids`: bad words of one id, the last
/// id of bad words whose other ids are the newest ones, end ids until min_new_tokens are there.
/// Ids may repeat. `num_unknown` more ids were generated after these: then no bad word may have
/// more than one id.
void append_banned_ids(const StopParams& params, std::span<const int32_t> generated_ids,
                       std::vector<int32_t>& banned, int num_unknown = 0);

}  // namespace inflight::decoding
