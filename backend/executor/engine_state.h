// Everything that changes while the engine runs. One struct, one owner: the engine thread. Others
// reach it through the inbox and hear of it through the response queue and published statistics.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <unordered_map>
#include <vector>

#include "backend/executor/batch_builder.h"
#include "backend/executor/cache_groups.h"
#include "backend/executor/deadlines.h"
#include "backend/executor/engine.h"
#include "backend/executor/inbox.h"
#include "backend/executor/sequence.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/planning/planner.h"
#include "backend/scheduler/limits.h"
#include "kernels/core/large_pages.h"

namespace inflight::executor {

/// A step from its planning to its commit, with all it needs to run or to be given back.
struct StepInFlight {
  explicit StepInFlight(const EngineInfo& info)
      : builder(info.max_num_tokens, info.max_batch_size, table_sources(info)) {}

  planning::PlannedStep plan;
  std::vector<Sequence*> sequences;  // plan.sequences, as what they are
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
  EngineState(const EngineInfo& info, const scheduler::Limits& limits,
              std::chrono::milliseconds queue_timeout, int max_steps_in_flight,
              kv_cache::CacheEventLog* events)
      : cache(kv_cache::Geometry(info.tokens_per_block), manager_blocks(info),
              {.enable_reuse = info.enable_kv_cache_reuse,
               .vocab_size = info.vocab_size,
               .num_host_blocks = static_cast<int32_t>(info.num_host_blocks),
               .onboard_blocks = info.kv_cache_onboard_blocks,
               .block_bytes = info.block_bytes,
               .events = events,
               .windows = window_pools(info)}),
        planner(limits, cache),
        deadlines(queue_timeout),
        steps(info, max_steps_in_flight) {}

  LargePages pages;  // of sequences and what they generate
  std::pmr::unsynchronized_pool_resource memory{LargePages::kPool, &pages};
  /// All that the planner names; one goes when it has ended and no step in flight names it.
  std::pmr::unordered_map<RequestId, Sequence> sequences{&memory};
  kv_cache::KvCacheManager cache;
  planning::Planner planner;
  Deadlines deadlines;
  /// One on the CPU. On a device that runs by itself two, the newer planned and launched before the
  /// older is waited for: views, sequences and reservations are made for it (num_computed counts
  /// steps in flight, their open reservations hold a release back).
  Steps steps;
  EngineStats stats;

  // Memory used again in every step.
  std::vector<Arrival> arrivals;
  std::vector<RequestId> cancels;
  std::vector<planning::PlannedSequence*> gone;
  std::vector<EngineTask> tasks;
};

}  // namespace inflight::executor
