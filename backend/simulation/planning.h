// How the simulator plans a step: with the engine's scheduler and cache manager, called as the
// engine's loop calls them. All that ties the simulator to their interfaces is here.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/scheduler/schedule.h"
#include "backend/simulation/cost_model.h"
#include "backend/simulation/sequence.h"
#include "backend/simulation/trace.h"

namespace inflight::simulation {

struct PlannedStep {
  scheduler::Step step;
  std::vector<Sequence*> sequences;  // sequences[i] is what step.sequences[i] names
  std::optional<kv_cache::Reservation> reservation;
  StepWork work;
  double end = 0;  // s
};

struct CacheLevels {
  int32_t used = 0;    // blocks
  int32_t cached = 0;  // blocks that nobody holds, with content
  int64_t hit_tokens = 0;
};

class Planner {
 public:
  Planner(const Trace& trace, int32_t tokens_per_block, int32_t num_blocks,
          const scheduler::Limits& limits);

  /// For the door; raises invalid_argument if it can never run.
  void check_can_run(const TraceRequest& request) const;
  void add_waiting(std::unique_ptr<Sequence> sequence);

  /// Plans the next step and reserves its blocks; false if there is nothing to run. `admitted`
  /// gets those that run from now on.
  bool plan(PlannedStep& next, std::vector<Sequence*>& admitted);
  /// The step has run: its tokens are cached.
  void commit(PlannedStep& step);
  /// Drops sequences that have ended and that no step in flight names.
  void release_ended();

  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  /// Of the prompts of those that run, what is not yet in a step. O(running).
  int64_t running_prompt_tokens() const;
  CacheLevels cache_levels() const;
  /// Raises internal where the cache's invariants are broken; O(blocks).
  void check_invariants() const;

 private:
  void make_views();
  void admit(int32_t num_admitted, std::vector<Sequence*>& admitted);
  StepWork work_of(const PlannedStep& planned) const;

  const Trace& trace_;
  const scheduler::Limits limits_;
  kv_cache::KvCacheManager cache_;
  std::deque<std::unique_ptr<Sequence>> waiting_;   // larger priority first, then arrival
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  std::vector<std::unique_ptr<Sequence>> retired_;  // ended, named by a step in flight

  // Memory used again in every step.
  std::vector<scheduler::SequenceView> running_views_, waiting_views_;
  std::vector<kv_cache::Growth> growths_;
  scheduler::Scratch scratch_;
};

}  // namespace inflight::simulation
