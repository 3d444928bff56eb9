#include "backend/scheduler/capacity.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::scheduler {

int32_t worst_case_blocks(const kv_cache::Geometry& geometry, int32_t max_total_len) {
  return geometry.num_blocks(kv_cache::max_cached_tokens(max_total_len));
}

Admission::Admission(std::span<const SequenceView> running, const CacheView& cache,
                     const Limits& limits)
    : cache_(cache),
      limits_(limits),
      num_places_(limits.max_running()),
      unclaimed_(cache.available_blocks()),
      windows_(cache_.windows, cache.geometry, limits) {
  // One whose last token is on its way takes no place in a step any more.
  for (const SequenceView& sequence : running) {
    num_places_ -= sequence.is_complete() ? 0 : 1;
    unclaimed_ -= claim(sequence);
    windows_.add(sequence.max_total_len);
    if (is_protected(sequence))
      protected_worst_ += worst_case_blocks(cache.geometry, sequence.max_total_len);
  }
  if (limits.capacity_policy == CapacityPolicy::kStaticBatch && !running.empty()) num_places_ = 0;
}

bool Admission::is_protected(const SequenceView& sequence) const {
  return limits_.capacity_policy == CapacityPolicy::kMaxUtilization &&
         scheduler::is_protected(sequence, limits_);
}

int64_t Admission::claim(const SequenceView& sequence) const {
  int32_t num_tokens = kv_cache::max_cached_tokens(sequence.max_total_len);
  if (limits_.capacity_policy == CapacityPolicy::kMaxUtilization && !is_protected(sequence)) {
    const int32_t soon = std::max(sequence.prompt_len, sequence.num_computed);
    // Compared like this, as the sum could overflow.
    if (num_tokens - soon > cache_.geometry.tokens_per_block())
      num_tokens = soon + cache_.geometry.tokens_per_block();
  }
  return sequence.blocks_to(num_tokens, cache_.geometry);
}

bool Admission::admit(const SequenceView& candidate) {
  if (!has_place()) return false;
  unclaimed_ -= claim(candidate);
  windows_.add(candidate.max_total_len);
  if (unclaimed_ < 0 || !windows_.fit()) return false;
  if (is_protected(candidate)) {
    // All that are protected fit together: whatever one of them needs can be taken from others.
    protected_worst_ += worst_case_blocks(cache_.geometry, candidate.max_total_len);
    if (protected_worst_ > cache_.num_blocks) return false;
  }
  --num_places_;
  return true;
}

int32_t num_admissible(const EngineView& view, const Limits& limits) {
  if (view.waiting.empty()) return 0;
  Admission admission(view.running, view.cache, limits);
  int32_t count = 0;
  for (const SequenceView& candidate : view.waiting) {
    if (!admission.admit(candidate)) break;
    ++count;
  }
  return count;
}

void check_fits_pool(int32_t max_total_len, const CacheView& cache, const Limits& limits) {
  const int32_t needed = worst_case_blocks(cache.geometry, max_total_len);
  check(needed <= cache.num_blocks, "prompt and output of ", max_total_len, " tokens need ", needed,
        " KV cache blocks of ", cache.geometry.tokens_per_block(), " tokens, the cache has ",
        cache.num_blocks);
  WindowClaims windows(cache.windows, cache.geometry, limits);
  windows.add(max_total_len);
  windows.check_fit(max_total_len);
}

}  // namespace inflight::scheduler
