// Who may hold cache, by policy:
//  - guaranteed_no_evict: a sequence is admitted only if it and all that run can grow to their
//    greatest length with the blocks there are, so that none ever has to give any up;
//  - static_batch: the same, and only when nobody runs, as many at once as there is room for;
//  - max_utilization: a sequence is admitted if it and all that run can hold their whole prompts
//    and a block beyond. When blocks run out some are preempted (preemption.h); one that has been
//    preempted max_preemptions times is admitted as under guaranteed_no_evict and keeps its blocks.
#pragma once

#include <cstdint>
#include <span>

#include "backend/scheduler/limits.h"
#include "backend/scheduler/view.h"

namespace inflight::scheduler {

/// What those that run count for in an Admission: sums that are kept as sequences begin, change and
/// leave, so that no step has to add up thousands.
class RunningClaims {
 public:
  /// `cache` says what sequences will be counted by: its geometry and its groups' windows.
  RunningClaims(const CacheView& cache, const Limits& limits);

  /// One that runs from now on, or has changed after it was removed as it was. A step that neither
  /// gives it blocks nor makes it complete changes nothing here.
  void add(const SequenceView& sequence) { count(sequence, 1); }
  void remove(const SequenceView& sequence) { count(sequence, -1); }

  bool operator==(const RunningClaims&) const = default;

 private:
  friend class Admission;
  void count(const SequenceView& sequence, int32_t times);
  /// Blocks that must be there for it.
  int64_t claim(const SequenceView& sequence) const;
  bool is_protected(const SequenceView& sequence) const;

  kv_cache::Geometry geometry_;
  CapacityPolicy policy_;
  int32_t max_preemptions_;
  int32_t num_sequences_ = 0;
  int32_t num_complete_ = 0;  // of them: their last token is on its way
  int64_t num_blocks_ = 0;
  int64_t protected_worst_ = 0;  // blocks
  WindowClaims windows_;         // whatever the policy
};

/// Decides one by one, in the order in which they may run. One that is not admitted ends it: none
/// behind it is asked for, however small.
class Admission {
 public:
  /// `cache` outlives it.
  Admission(const RunningClaims& running, const CacheView& cache, const Limits& limits);

  /// Whether another may begin at all.
  bool has_place() const { return num_places_ > 0; }
  /// Whether `candidate` may run with all that run and those admitted so far; counts it if so.
  bool admit(const SequenceView& candidate);

 private:
  const CacheView& cache_;
  int32_t num_places_;
  RunningClaims claims_;  // of those admitted, too
};

/// How many at the head of `view.waiting` may start to run now.
int32_t num_admissible(const EngineView& view, const Limits& limits);

/// Under max_utilization: one that keeps its blocks whatever others need.
inline bool is_protected(const SequenceView& sequence, const Limits& limits) {
  return sequence.num_preemptions >= limits.max_preemptions;
}

/// Blocks that a sequence holds when it is as long as it may become.
int32_t worst_case_blocks(const kv_cache::Geometry& geometry, int32_t max_total_len);

/// Raises invalid_argument if the pool could not hold such a sequence even alone.
void check_fits_pool(int32_t max_total_len, const CacheView& cache, const Limits& limits);

}  // namespace inflight::scheduler
