// The numbers that scheduling looks at: copies of what the engine knows, true before each step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "backend/kv_cache/geometry.h"
#include "backend/scheduler/step_time.h"
#include "backend/scheduler/window_claims.h"

namespace inflight::scheduler {

/// A sequence, running (it holds cache) or waiting (it does not): which one is said by the list it
/// is in.
struct SequenceView {
  uint64_t id = 0;            // smaller: came earlier
  int32_t priority = 0;       // larger first
  int32_t prompt_len = 0;     // tokens to run before the first new one, >= 1: of one that was
                              // preempted, what it had generated too
  int32_t num_computed = 0;   // tokens in the cache, or sure to be after the steps in flight; for a
                              // waiting one those of its prompt that the cache already has
  int32_t max_total_len = 0;  // prompt + output at the most, > prompt_len
  int32_t num_blocks = 0;     // held now; for a waiting one those of its num_computed tokens that
                              // others use, which cost nothing
  bool logits_of_prompt = false;  // every row of the prompt takes one of the step's logits
  int32_t num_preemptions = 0;    // since it came
  int32_t num_passes = 0;         // how often one behind it went ahead (admission_order.h)

  /// Whether its prompt may be run in pieces: where limits say so, but always for one that takes
  /// rows of logits, and for one that was preempted, whose prompt may be longer than any step.
  bool may_be_cut(bool enable_chunked_context) const {
    return enable_chunked_context || logits_of_prompt || num_preemptions > 0;
  }
  bool operator==(const SequenceView&) const = default;
  bool is_generating() const { return num_computed >= prompt_len; }
  /// Nothing left to run: the newest step made its last token.
  bool is_complete() const { return num_computed >= kv_cache::max_cached_tokens(max_total_len); }
  /// Blocks to come until it holds `num_tokens` tokens.
  int32_t blocks_to(int32_t num_tokens, const kv_cache::Geometry& geometry) const {
    if (num_tokens <= int64_t{num_blocks} * geometry.tokens_per_block()) return 0;
    return geometry.num_blocks(num_tokens) - num_blocks;
  }
};

struct CacheView {
  kv_cache::Geometry geometry{1};
  int32_t num_blocks = 0;        // of the pool
  int32_t free_blocks = 0;       // hold nothing
  int32_t evictable_blocks = 0;  // hold what no sequence uses: can be taken at any time
  int32_t leaving_blocks = 0;    // of sequences that run no more: free once no step in flight names
                                 // them (some may be shared, so at most so many)
  std::span<const WindowGroupView> windows;  // pools of layers that see a window

  int32_t available_blocks() const { return free_blocks + evictable_blocks; }
};

/// What `schedule` sees. `running` is in order of admission. `waiting` is in the order in which
/// they may be admitted, larger priority first; no more than `Limits::max_running()` less the
/// running ones that are not complete are looked at, so a long queue need not be shown whole.
struct EngineView {
  std::span<const SequenceView> running;
  std::span<const SequenceView> waiting;
  CacheView cache;
  StepTime step_time;  // read if the limits bound it
  uint64_t turn = 0;   // counts steps planned
};

}  // namespace inflight::scheduler
