// Everything that changes while the engine runs. One struct, one owner: the engine thread. Others
// reach it through the inbox and hear of it through the response queue and published statistics.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "backend/executor/batch_builder.h"
#include "backend/executor/deadlines.h"
#include "backend/executor/engine.h"
#include "backend/executor/sequence.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/scheduler/step.h"

namespace inflight::executor {

/// A step from its planning to its commit, with all it needs to run or to be given back.
struct StepInFlight {
  explicit StepInFlight(const EngineInfo& info)
      : builder(info.max_num_tokens, info.max_batch_size) {}

  scheduler::Step step;
  std::vector<Sequence*> sequences;       // sequences[i] is what step.sequences[i] names
  std::vector<int32_t> in_flight_tokens;  // what BatchBuilder::build says
  std::optional<kv_cache::Reservation> reservation;
  BatchBuilder builder;
};

/// The steps in flight, oldest first, and the one being planned.
class Steps {
 public:
  Steps(const EngineInfo& info, int max_in_flight) {
    ring_.reserve(max_in_flight);
    while (static_cast<int>(ring_.size()) < max_in_flight) ring_.emplace_back(info);
  }

  StepInFlight& planned() { return ring_[(first_ + num_in_flight_) % ring_.size()]; }
  StepInFlight& oldest() { return ring_[first_]; }
  void launched() { ++num_in_flight_; }  // the planned one is the newest in flight
  void ended() {                         // the oldest
    first_ = (first_ + 1) % ring_.size();
    --num_in_flight_;
  }
  StepInFlight& newest() { return ring_[(first_ + num_in_flight_ - 1) % ring_.size()]; }
  void failed() { --num_in_flight_; }  // the newest

  bool any_in_flight() const { return num_in_flight_ > 0; }
  bool is_full() const { return num_in_flight_ == ring_.size(); }

 private:
  std::vector<StepInFlight> ring_;
  size_t first_ = 0;
  size_t num_in_flight_ = 0;
};

struct EngineState {
  EngineState(const EngineInfo& info, int max_steps_in_flight)
      : cache(kv_cache::Geometry(info.tokens_per_block), static_cast<int32_t>(info.num_blocks)),
        steps(info, max_steps_in_flight) {}

  // A sequence is in exactly one of the three lists.
  std::deque<std::unique_ptr<Sequence>> waiting;   // larger priority first, then arrival
  std::vector<std::unique_ptr<Sequence>> running;  // in order of admission; they hold cache
  std::vector<std::unique_ptr<Sequence>> retired;  // ended; released when no step names them
  std::unordered_map<RequestId, Sequence*> live;   // waiting and running, for cancel
  kv_cache::KvCacheManager cache;
  /// One on the CPU. On a device that runs by itself two, the newer planned and launched before the
  /// older is waited for: views, sequences and reservations are made for it (num_computed counts
  /// steps in flight, num_steps_in_flight holds a release back).
  Steps steps;
  int64_t next_deadline_ns = kNoDeadline;  // no live sequence is overdue before
  EngineStats stats;

  // Memory used again in every step.
  std::vector<Arrival> arrivals;
  std::vector<RequestId> cancels;

  /// Nobody runs or waits to.
  bool is_idle() const { return waiting.empty() && running.empty(); }
};

}  // namespace inflight::executor
