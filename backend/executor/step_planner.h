// Plans the next step: shows the scheduler numbers, does what it answers (admits, reserves) and
// notes who runs. Changes the EngineState that the engine loop owns; engine thread only. Knows no
// device and no tokens.
#pragma once

#include "backend/executor/engine_state.h"
#include "backend/executor/inbox.h"
#include "backend/executor/response_queue.h"
#include "backend/scheduler/limits.h"
#include "backend/scheduler/schedule.h"

namespace inflight::executor {

class StepPlanner {
 public:
  /// All arguments but `limits` outlive the planner.
  StepPlanner(const scheduler::Limits& limits, EngineState& state, Inbox& inbox,
              ResponseQueue& responses);

  /// Fills steps.planned() and reserves its blocks; false if there is nothing to run, or not before
  /// the tokens in flight are known.
  bool plan();

 private:
  void make_views();
  void admit(int num_admitted);
  /// Tells who reads a prompt in the planned step what blocks it got.
  void count_context_blocks(const StepInFlight& planned);

  const scheduler::Limits limits_;
  EngineState& state_;
  Inbox& inbox_;
  ResponseQueue& responses_;

  // Memory used again in every step.
  std::vector<scheduler::SequenceView> running_views_;
  std::vector<scheduler::SequenceView> waiting_views_;
  std::vector<kv_cache::Growth> growths_;
  scheduler::Scratch scratch_;
};

}  // namespace inflight::executor
