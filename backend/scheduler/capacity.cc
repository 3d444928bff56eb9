#include "backend/scheduler/capacity.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::scheduler {

int32_t worst_case_blocks(const kv_cache::Geometry& geometry, int32_t max_total_len) {
  return geometry.num_blocks(kv_cache::max_cached_tokens(max_total_len));
}

RunningClaims::RunningClaims(const CacheView& cache, const Limits& limits)
    : geometry_(cache.geometry),
      policy_(limits.capacity_policy),
      max_preemptions_(limits.max_preemptions),
      windows_(cache.windows, cache.geometry, limits) {}

bool RunningClaims::is_protected(const SequenceView& sequence) const {
  return policy_ == CapacityPolicy::kMaxUtilization && sequence.num_preemptions >= max_preemptions_;
}

int64_t RunningClaims::claim(const SequenceView& sequence) const {
  int32_t num_tokens = kv_cache::max_cached_tokens(sequence.max_total_len);
  if (policy_ == CapacityPolicy::kMaxUtilization && !is_protected(sequence)) {
    const int32_t soon = std::max(sequence.prompt_len, sequence.num_computed);
    // Compared like this, as the sum could overflow.
    if (num_tokens - soon > geometry_.tokens_per_block())
      num_tokens = soon + geometry_.tokens_per_block();
  }
  return sequence.blocks_to(num_tokens, geometry_);
}

void RunningClaims::count(const SequenceView& sequence, int32_t times) {
  num_sequences_ += times;
  num_complete_ += sequence.is_complete() ? times : 0;
  num_blocks_ += times * claim(sequence);
  windows_.add(sequence.max_total_len, times);
  if (is_protected(sequence))
    protected_worst_ += times * int64_t{worst_case_blocks(geometry_, sequence.max_total_len)};
}

Admission::Admission(const RunningClaims& running, const CacheView& cache, const Limits& limits)
    : cache_(cache),
      // One whose last token is on its way takes no place in a step any more.
      num_places_(limits.max_running() - (running.num_sequences_ - running.num_complete_)),
      claims_(running) {
  if (limits.capacity_policy == CapacityPolicy::kStaticBatch && running.num_sequences_ > 0)
    num_places_ = 0;
}

bool Admission::admit(const SequenceView& candidate) {
  if (!has_place()) return false;
  claims_.add(candidate);
  if (claims_.num_blocks_ > cache_.available_blocks() || !claims_.windows_.fit(cache_.windows))
    return false;
  // All that are protected fit together: whatever one of them needs can be taken from others.
  if (claims_.is_protected(candidate) && claims_.protected_worst_ > cache_.num_blocks) return false;
  --num_places_;
  return true;
}

int32_t num_admissible(const EngineView& view, const Limits& limits) {
  if (view.waiting.empty()) return 0;
  RunningClaims running(view.cache, limits);
  for (const SequenceView& sequence : view.running) running.add(sequence);
  Admission admission(running, view.cache, limits);
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
  windows.check_fit(cache.windows, max_total_len);
}

}  // namespace inflight::scheduler
