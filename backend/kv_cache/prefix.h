// What the start of a sequence is to the cache: its tokens, and with whom it may share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace inflight::kv_cache {

/// A sequence's tokens, of two owners: what it was given and what it has made. Read, not kept.
struct TokenView {
  std::span<const int32_t> prompt;
  std::span<const int32_t> generated;

  int32_t size() const { return static_cast<int32_t>(prompt.size() + generated.size()); }
  /// Those are read soon, if there are so many.
  void prefetch(int32_t first, int32_t count) const {
    if (size() < first + count) return;
    const auto prompt_len = static_cast<int32_t>(prompt.size());
    const int32_t* const start =
        first < prompt_len ? prompt.data() + first : generated.data() + (first - prompt_len);
    for (int32_t i = 0; i < count; i += 16) __builtin_prefetch(start + i);
    __builtin_prefetch(start + count - 1);
  }
  /// Tokens [first, first + count), all of which there must be.
  void copy(int32_t first, int32_t count, int32_t* out) const {
    const auto prompt_len = static_cast<int32_t>(prompt.size());
    const int32_t split = std::clamp(prompt_len, first, first + count);
    if (split > first) out = std::copy_n(prompt.data() + first, split - first, out);
    if (split < first + count)
      std::copy_n(generated.data() + (split - prompt_len), first + count - split, out);
  }
};

/// Blocks are shared between sequences of equal scope only.
struct PrefixScope {
  uint64_t adapter_id = 0;          // 0: none
  std::string cache_salt;           // a caller's own word, so that tenants do not share
  std::vector<uint64_t> extra_ids;  // of a prompt table, one a token

  bool is_default() const { return adapter_id == 0 && cache_salt.empty() && extra_ids.empty(); }
  bool operator==(const PrefixScope&) const = default;
};

/// What of a prompt is in the cache: the tokens of its leading blocks, and those at the start of
/// the block behind them. Never all of the prompt: its last token is always run.
struct PrefixMatch {
  int32_t num_tokens = 0;
  int32_t num_blocks = 0;         // whole blocks, which are shared
  int32_t num_used_blocks = 0;    // of them in use by other sequences: sharing them costs nothing
  int32_t num_host_blocks = 0;    // of them in host memory alone: each costs a block and a copy
  int32_t num_copied_tokens = 0;  // of num_tokens, those of a block that matches in part: copied

  bool operator==(const PrefixMatch&) const = default;
};

}  // namespace inflight::kv_cache
