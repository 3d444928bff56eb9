// Block arithmetic of layers that see a sliding window: which blocks of a sequence they still need,
// and how many those can be. Pure numbers: no memory, no pool, no device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/kv_cache/geometry.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {

/// What the layers of a group see: a token at position p those at (p - window, p], and the first
/// num_sinks of its sequence.
struct Window {
  int32_t window = 1;  // tokens, >= 1
  int32_t num_sinks = 0;

  bool operator==(const Window&) const = default;
};

inline void validate(const Window& window) {
  check(window.window >= 1 && window.num_sinks >= 0, "a window of ", window.window, " tokens and ",
        window.num_sinks, " sinks: at least 1 and 0 are needed");
}

/// Of a sequence whose first `num_committed` tokens have been run, blocks [sinks, first) of its
/// table hold nothing that a later token sees.
struct WindowBorders {
  int32_t sinks;
  int32_t first;

  WindowBorders(const Geometry& geometry, const Window& window, int32_t num_committed)
      : sinks(geometry.num_blocks(window.num_sinks)),
        first(std::max(sinks,
                       geometry.block_index(std::max(num_committed - window.window + 1, 0)))) {}
};

/// Blocks that any number of sequences can hold at once, each with tokens of at most
/// `max_steps_in_flight` steps of at most `max_num_tokens` not committed yet.
///
/// A sequence has the tokens before its first uncommitted one that this sees, and the uncommitted
/// ones: L tokens wherever they lie touch at most (L + tokens_per_block - 2) / tokens_per_block + 1
/// blocks. What of that exceeds one uncommitted token a step is chunks of prompts, of which all
/// sequences together have no more than the steps; a block each is for what rounding loses.
class WindowDemand {
 public:
  WindowDemand(const Geometry& geometry, const Window& window, int32_t max_num_tokens,
               int32_t max_steps_in_flight)
      : geometry_(geometry),
        kept_(saturated(int64_t{geometry.num_blocks(window.num_sinks)} +
                        divide_up(int64_t{window.window} - 2 + max_steps_in_flight) + 2)),
        chunks_(int64_t{max_num_tokens} * max_steps_in_flight / geometry.tokens_per_block()) {}

  /// Another sequence, of at most `max_total_len` tokens (prompt + output).
  void add(int32_t max_total_len, int64_t count = 1) {
    const int32_t total = geometry_.num_blocks(max_cached_tokens(max_total_len));
    steady_ += count * std::min(total, kept_);
    beyond_ += count * std::max(total - kept_, 0);
  }

  int64_t num_blocks() const { return steady_ + std::min(chunks_, beyond_); }
  bool operator==(const WindowDemand&) const = default;

 private:
  int64_t divide_up(int64_t tokens) const {
    return (tokens + geometry_.tokens_per_block() - 1) / geometry_.tokens_per_block();
  }
  static int32_t saturated(int64_t blocks) {
    return static_cast<int32_t>(std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max()));
  }

  Geometry geometry_;
  int32_t kept_;        // blocks of a sequence that reads no chunk
  int64_t chunks_;      // blocks of all chunks
  int64_t steady_ = 0;  // blocks of the sequences added, without chunks
  int64_t beyond_ = 0;  // of them, that chunks could add
};

}  // namespace inflight::kv_cache
