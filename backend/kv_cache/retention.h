// What a request wishes for its blocks once it has ended: which of them to keep longest, and for
// how long. A wish: blocks that are needed go, those of small priority first.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

namespace inflight::kv_cache {

struct RetentionRange {
  int32_t begin = 0;           // tokens of the prompt
  std::optional<int32_t> end;  // one past the last; none: to the prompt's end
  int32_t priority = 0;        // 0 (goes first) to 100 (stays longest)
  /// After so long they have the default priority again; none: never.
  std::optional<std::chrono::milliseconds> duration;
};

struct Retention {
  static constexpr int32_t kDefaultPriority = 35;
  static constexpr int32_t kMaxPriority = 100;

  std::vector<RetentionRange> ranges;          // tokens in none of them have the default
  int32_t decode_priority = kDefaultPriority;  // of blocks of generated tokens
  std::optional<std::chrono::milliseconds> decode_duration;
};

/// Raises invalid_argument naming the field, its value and its limit.
void validate(const Retention& retention);

}  // namespace inflight::kv_cache
