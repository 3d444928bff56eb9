// Those that run, in order of admission, and what every step looks at and changes of each. That
// lies beside each other here, as thousands may run and the sequences lie all over memory: a step
// touches none of them. Owns the lists, not the sequences; knows no policy. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/planning/planned_sequence.h"
#include "backend/scheduler/capacity.h"
#include "backend/scheduler/fair_share.h"
#include "backend/scheduler/limits.h"
#include "backend/scheduler/step.h"
#include "backend/scheduler/step_time.h"

namespace inflight::planning {

class RunningList {
 public:
  /// `cache` outlives the list.
  RunningList(const scheduler::Limits& limits, const kv_cache::KvCacheManager& cache,
              const scheduler::CacheView& view);

  size_t size() const { return sequences_.size(); }
  bool empty() const { return sequences_.empty(); }
  PlannedSequence& operator[](size_t place) const { return *sequences_[place]; }
  std::span<PlannedSequence* const> sequences() const { return sequences_; }
  /// What the scheduler is shown of each, true after `refresh`.
  std::span<const scheduler::SequenceView> views() const { return views_; }
  const scheduler::RunningClaims& claims() const { return claims_; }  // the sums of the views
  size_t num_needing_newest() const { return num_needing_newest_; }   // needs_newest_token

  /// One that has just been opened, behind the others.
  void add(PlannedSequence& sequence);
  /// Takes those at `places`, in order, off the list.
  void remove(std::span<const int32_t> places);
  /// Raises internal if it does not run.
  int32_t place_of(const PlannedSequence& sequence) const;
  /// Null if it does not run.
  PlannedSequence* find(uint64_t id) const;
  /// A step in flight makes the newest token of a generating one, which is not known yet.
  bool has_token_in_flight(size_t place) const {
    return cache_.num_open_reservations(seats_[place].table) > 0;
  }

  /// The views hold what is no longer so: blocks were given back.
  void forget_views() { are_views_stale_ = true; }
  /// Makes them anew if they have to be.
  void refresh(const scheduler::CacheView& cache);
  /// Writes what a step does to those it names, all but the blocks that it gives them: `growths`
  /// for the cache, the `rows` of the step in flight that make the newest tokens (-1 where that is
  /// known) and `sequences`, one for each part; `work`; and what tenants are served.
  void advance(const scheduler::Step& step, std::vector<kv_cache::Growth>& growths,
               std::vector<int32_t>& rows, std::vector<PlannedSequence*>& sequences,
               scheduler::StepWork& work, scheduler::ServiceLedger& ledger);
  /// The step has its blocks.
  void advanced();

  /// Raises internal if what is kept from step to step is not what is; for tests.
  void check_kept(const scheduler::CacheView& cache) const;

 private:
  /// Of a sequence, beside its view.
  struct Seat {
    uint64_t order;  // of admission
    kv_cache::TableId table;
    scheduler::TenantId tenant;
    int32_t row;  // of the logits of the newest step that names it
  };
  scheduler::SequenceView view_of(const PlannedSequence& sequence) const;

  const scheduler::Limits limits_;
  const kv_cache::KvCacheManager& cache_;
  // By place.
  std::vector<PlannedSequence*> sequences_;
  std::vector<scheduler::SequenceView> views_;
  std::vector<Seat> seats_;
  bool are_views_stale_ = false;  // and must all be made anew
  scheduler::RunningClaims claims_;
  size_t num_needing_newest_ = 0;
  uint64_t num_admitted_ = 0;      // since the start
  std::vector<int32_t> changing_;  // places whose claims a step changes
};

}  // namespace inflight::planning
