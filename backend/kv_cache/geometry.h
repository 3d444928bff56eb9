// All slot and block arithmetic, written once. Pure numbers: no memory, no pool, no device.
// Position p of a sequence lies in the p / tokens_per_block-th block of its block table.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

class Geometry {
 public:
  explicit Geometry(int32_t tokens_per_block) : tokens_per_block_(tokens_per_block) {
    check(tokens_per_block >= 1, "tokens_per_block ", tokens_per_block, " < 1");
  }

  int32_t tokens_per_block() const { return tokens_per_block_; }

  /// Index in the block table of the block that holds `position`, and where in it.
  int32_t block_index(int32_t position) const { return position / tokens_per_block_; }
  int32_t offset_in_block(int32_t position) const { return position % tokens_per_block_; }

  /// The slot of `position`, which lies in pool block `block_id`.
  int32_t slot(int32_t block_id, int32_t position) const {
    return block_id * tokens_per_block_ + offset_in_block(position);
  }

  /// Blocks that hold `num_tokens` tokens of one sequence; the last may be part full.
  int32_t num_blocks(int32_t num_tokens) const {
    return num_tokens / tokens_per_block_ + (num_tokens % tokens_per_block_ != 0);
  }

  /// The last block border at or before `position`.
  int32_t round_down(int32_t position) const { return position - offset_in_block(position); }

  /// Most blocks a pool can have: slots are int32.
  int32_t max_pool_blocks() const {
    return std::numeric_limits<int32_t>::max() / tokens_per_block_;
  }

  bool operator==(const Geometry&) const = default;

 private:
  int32_t tokens_per_block_;
};

/// Tokens that a sequence of at most `max_total_len` tokens (prompt + output) ever has in the
/// cache: the last token is given to the user and never run.
constexpr int32_t max_cached_tokens(int32_t max_total_len) { return max_total_len - 1; }

}  // namespace inflight::kv_cache
