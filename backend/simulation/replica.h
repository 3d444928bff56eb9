// One engine in virtual time: the engine loop's rounds (receive, plan, launch, wait, commit,
// release) with the engine's planner, scheduler and cache manager, against a device that only
// takes time.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/planning/planner.h"
#include "backend/scheduler/limits.h"
#include "backend/simulation/cost_model.h"
#include "backend/simulation/records.h"
#include "backend/simulation/sequence.h"
#include "backend/simulation/trace.h"

namespace inflight::simulation {

struct ReplicaConfig {
  int32_t tokens_per_block = 32;
  int32_t num_blocks = 0;
  bool enable_reuse = true;
  int32_t num_host_blocks = 0;
  double block_bytes = 0;  // of a copy between device and host
  scheduler::Limits limits;
  int32_t max_steps_in_flight = 2;  // as the engine on a GPU; 1 as on the CPU
  CostModel cost;
  bool check_invariants = false;  // after every step
};

void validate(const ReplicaConfig& config);

/// What a router may know of a replica at once.
struct ReplicaLoad {
  int32_t num_waiting = 0;          // requests
  int32_t num_running = 0;          // requests
  int64_t prompt_tokens_to_do = 0;  // of both; of those that wait as if nothing were cached
  int64_t context_tokens = 0;       // of both: prompts whole, and what was generated
};

class Replica {
 public:
  /// `trace`, `records` ([trace.size()]) and `timeline` outlive it.
  Replica(int16_t index, const Trace& trace, const ReplicaConfig& config,
          std::vector<RequestRecord>& records, Timeline& timeline);

  /// A request arrives, at its time; not before `advance_to` that time, nor after a later one.
  /// False, and noted as refused, if it could never run.
  bool submit(int64_t request);
  /// Makes every step that is planned before `time`.
  void advance_to(double time);
  /// Until nothing is left to do.
  void drain();

  /// O(running).
  ReplicaLoad load() const;
  bool is_idle() const;
  /// When its last step ended, s.
  double now() const { return now_; }

 private:
  struct StepInFlight {
    planning::PlannedStep plan;
    double start = 0, end = 0;  // s
  };

  /// A turn of the engine's loop. False if there was nothing to do.
  bool round();
  void receive();
  void note_started(const planning::PlannedStep& plan);
  void launch(StepInFlight& step);
  void commit(StepInFlight& step);
  void make_token(Sequence& sequence);
  void release();
  StepWork work_of(const planning::PlannedStep& plan);

  const Trace& trace_;
  const ReplicaConfig config_;
  std::vector<RequestRecord>& records_;
  Timeline& timeline_;
  const int16_t index_;
  kv_cache::CacheCosts costs_;
  kv_cache::KvCacheManager cache_;
  planning::Planner planner_;
  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> live_;
  std::deque<int64_t> inbox_;       // requests
  std::vector<StepInFlight> ring_;  // steps in flight, and the one being planned
  size_t first_ = 0;
  size_t num_in_flight_ = 0;
  double now_ = 0;          // the host's clock, s
  double device_free_ = 0;  // when the newest launched step ends
  // As callers see it: from arrival to the first step, and from there to the last token.
  int32_t num_waiting_ = 0, num_running_ = 0;
  int64_t waiting_prompt_tokens_ = 0, context_tokens_ = 0;
  double waiting_since_ = 0, running_since_ = 0;  // the timeline knows the levels until then
  int64_t preemptions_ = 0;                       // the timeline knows
  std::vector<planning::PlannedSequence*> gone_;  // used again
};

}  // namespace inflight::simulation
