// Plans steps over the lists of those that wait and run: shows the scheduler numbers, does to the
// cache what it answers (open, preempt, reserve) and says what has happened. Owns the lists and
// what policies remember from step to step (served tokens, measured times), not the sequences.
// Knows no requests, no clock, no device. One thread.
//
// The life of a sequence here: arrive, plan and commit for every step, end, and gone once release
// says so. A preempted one is back in the queue as soon as no step in flight names it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/planning/planned_sequence.h"
#include "backend/planning/running_list.h"
#include "backend/planning/waiting_queue.h"
#include "backend/scheduler/capacity.h"
#include "backend/scheduler/fair_share.h"
#include "backend/scheduler/limits.h"
#include "backend/scheduler/schedule.h"
#include "backend/scheduler/step_time.h"

namespace inflight::planning {

/// A step and what its planning did. Its memory is used again.
struct PlannedStep {
  struct Allocation {
    PlannedSequence* sequence;
    int32_t num_blocks;  // that the chunk of its prompt got
    int32_t num_reused;  // that it began with
  };

  scheduler::Step step;
  std::vector<PlannedSequence*> sequences;  // sequences[i] is what step.sequences[i] names
  std::vector<int32_t> in_flight_tokens;    // row of the step before that makes the newest token of
                                            // sequences[i], if that is not known yet, else -1
  std::vector<PlannedSequence*> started;    // run for the first time
  std::vector<Allocation> allocated;        // to prompts that run for the first time
  scheduler::StepWork work;
  std::optional<kv_cache::Reservation> reservation;
};

class Planner {
 public:
  /// `cache` outlives the planner.
  Planner(const scheduler::Limits& limits, kv_cache::KvCacheManager& cache);

  /// Puts it at the end of its line. It must live until release says that it is gone.
  void arrive(PlannedSequence& sequence, std::string_view tenant);

  /// Fills `next` with the next step and reserves its blocks; false if there is nothing to run, or
  /// not before a step in flight has ended. Nothing that has ended may be in the lists: release
  /// first.
  bool plan(PlannedStep& next, bool any_step_in_flight);

  /// The step has run, as the oldest in flight: what it computed counts as cached. Ahead of the
  /// tokens that it made.
  void commit(PlannedStep& step);
  /// It has not run or broke: its blocks are given back. Newest step first.
  void give_back(PlannedStep& step);
  /// After give_back, where what is cached is not to be trusted: nobody finds it any more. Those
  /// that have begun with some of it and not got it yet (of a batch that began whole, those that no
  /// step has named) begin anew.
  void forget_cached();
  /// The step took so long, from the end of the one before it.
  void measured(const scheduler::StepWork& work, double ms);

  /// It runs no more, wherever it is.
  void end(PlannedSequence& sequence);
  /// Gives back the blocks of those that ended or were preempted and that no step in flight names;
  /// `gone` gets those that ended, which are forgotten here.
  void release(std::vector<PlannedSequence*>& gone);

  const RunningList& running() const { return running_; }
  const WaitingQueue& waiting() const { return waiting_; }
  /// Wait, or will once no step in flight names them.
  size_t num_waiting() const { return waiting_.size() + num_pausing_; }
  /// Of them, preempted.
  size_t num_paused() const { return waiting_.num_preempted() + num_pausing_; }
  /// Those still named by a step in flight, ended or preempted.
  size_t num_leaving() const { return leaving_.size(); }
  int64_t num_preemptions() const { return num_preemptions_; }  // since the start
  bool is_idle() const { return running_.empty() && num_waiting() == 0; }
  const scheduler::StepTime& step_time() const { return step_times_.fit(); }
  /// Raises internal if what is kept from step to step is not what is: O(running), for tests.
  void check_kept() { running_.check_kept(cache_view()); }

 private:
  struct Candidate {
    PlannedSequence* sequence;
    int32_t place;                  // in shown_
    kv_cache::PrefixLookup lookup;  // if it was looked for in this plan
  };

  scheduler::CacheView cache_view();
  /// Takes those that ended off the list of the running ones, nothing more.
  void retire();
  void preempt();
  void pause(std::span<const int32_t> chosen);
  void release_paused();
  /// Of those that run; null if it does not.
  const PlannedSequence* running_twin(const PlannedSequence& sequence) const;
  kv_cache::TableId twin_table(const PlannedSequence& sequence) const {
    const PlannedSequence* twin = running_twin(sequence);
    return twin == nullptr ? PlannedSequence::kNoTable : twin->table;
  }
  /// The one with the same prompt is about to begin or reads it still.
  bool waits_for_twin(const PlannedSequence& sequence) const;
  scheduler::SequenceView match(Candidate& candidate);
  void show_next(WaitingQueue::Round& round);
  int32_t hits_to_choose_by(Candidate& candidate);
  /// Fills candidates_ with those that capacity admits, in the order in which they may begin.
  void choose_candidates(const scheduler::CacheView& cache);
  /// Its blocks in host memory take longer to come than a step takes, and others generate.
  bool would_delay_generation(const PlannedSequence& sequence) const;
  void bring_ahead(PlannedSequence& sequence);
  void count_passes(int32_t num_admitted);
  void open(const Candidate& candidate, PlannedStep& next);
  int32_t num_blocks(const PlannedSequence& sequence) const;
  /// That name it: it is not released before they have ended.
  int32_t num_steps_in_flight(const PlannedSequence& sequence) const {
    return sequence.is_running() ? cache_.num_open_reservations(sequence.table) : 0;
  }

  const scheduler::Limits limits_;
  kv_cache::KvCacheManager& cache_;
  scheduler::ServiceLedger ledger_;
  scheduler::StepTimeModel step_times_;
  std::vector<scheduler::WindowGroupView> group_views_;
  // A sequence is in one of the three.
  WaitingQueue waiting_;
  std::vector<PlannedSequence*> leaving_;  // run no more, hold cache
  RunningList running_;
  size_t num_pausing_ = 0;  // in leaving_, preempted and not ended
  int64_t num_preemptions_ = 0;
  int32_t newest_prompt_tokens_ = 0;   // of the newest step planned
  PlannedSequence* coming_ = nullptr;  // would be admitted, but for blocks that come from the host
  uint64_t num_plans_ = 0;
  std::vector<PlannedSequence*> ended_;  // of running_

  // Memory used again in every step.
  std::vector<scheduler::SequenceView> candidate_views_;
  std::vector<Candidate> candidates_;
  std::vector<PlannedSequence*> shown_;  // in the order of the queue
  std::vector<Candidate> window_;        // of them, not yet chosen
  std::vector<scheduler::SequenceView> window_views_;
  std::vector<int32_t> chosen_;
  std::vector<kv_cache::Growth> growths_;
  std::vector<int32_t> places_;
  scheduler::Scratch scratch_;
};

}  // namespace inflight::planning
