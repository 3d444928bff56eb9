// The numbers that scheduling looks at: copies of what the engine knows, made before each step.
#pragma once

#include <cstdint>
#include <span>

#include "backend/kv_cache/geometry.h"

namespace inflight::scheduler {

/// A sequence, running (it holds cache) or waiting (it does not): which one is said by the list it
/// is in.
struct SequenceView {
  uint64_t id = 0;
  int32_t priority = 0;       // larger first
  int32_t prompt_len = 0;     // tokens to run before the first new one, >= 1
  int32_t num_computed = 0;   // tokens in the cache, or sure to be after the steps in flight; for a
                              // waiting one those of its prompt that the cache already has
  int32_t max_total_len = 0;  // prompt + output at the most, > prompt_len
  int32_t num_blocks = 0;     // held now; for a waiting one those of its prompt that are in use by
                              // others, which it will share
  bool logits_of_prompt = false;  // every row of the prompt takes one of the step's logits

  bool is_generating() const { return num_computed >= prompt_len; }
  /// Nothing left to run: the newest step made its last token.
  bool is_complete() const { return num_computed >= kv_cache::max_cached_tokens(max_total_len); }
};

struct CacheView {
  kv_cache::Geometry geometry{1};
  int32_t num_blocks = 0;  // of the pool
  int32_t free_blocks = 0;
  int32_t evictable_blocks = 0;  // hold what nobody uses now, and are free when needed
};

/// What `schedule` sees. `running` is in order of admission. `waiting` is in order of priority,
/// larger first, then of arrival; no more than `Limits::max_running()` less the running ones that
/// are not complete are looked at, so a long queue need not be shown whole.
struct EngineView {
  std::span<const SequenceView> running;
  std::span<const SequenceView> waiting;
  CacheView cache;
};

}  // namespace inflight::scheduler
