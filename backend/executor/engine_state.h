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
#include "backend/executor/engine.h"
#include "backend/executor/sequence.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/scheduler/schedule.h"

namespace inflight::executor {

/// A step from its planning to its commit, with all it needs to run or to be given back.
struct StepInFlight {
  explicit StepInFlight(const EngineInfo& info, const kv_cache::Geometry& geometry)
      : builder(info.max_num_tokens, info.max_batch_size, geometry.num_blocks(info.max_seq_len)) {}

  scheduler::Step step;
  std::vector<Sequence*> sequences;  // sequences[i] is what step.sequences[i] names
  std::optional<kv_cache::Reservation> reservation;
  BatchBuilder builder;
};

struct EngineState {
  explicit EngineState(const EngineInfo& info)
      : cache(kv_cache::Geometry(info.tokens_per_block), static_cast<int32_t>(info.num_blocks)),
        newest(info, cache.geometry()) {}

  // A sequence is in exactly one of the three lists.
  std::deque<std::unique_ptr<Sequence>> waiting;   // larger priority first, then arrival
  std::vector<std::unique_ptr<Sequence>> running;  // in order of admission; they hold cache
  std::vector<std::unique_ptr<Sequence>> retired;  // ended; released when no step names them
  std::unordered_map<RequestId, Sequence*> live;   // waiting and running, for cancel
  kv_cache::KvCacheManager cache;
  /// The one step in flight. With overlap on a device there are two of these, the newer planned
  /// and launched before the older is waited for: views, sequences and reservations are made for it
  /// (num_computed counts steps in flight, num_steps_in_flight holds a release back).
  StepInFlight newest;
  EngineStats stats;

  // Memory used again in every step.
  std::vector<Arrival> arrivals;
  std::vector<RequestId> cancels;
  std::vector<scheduler::SequenceView> running_views;
  std::vector<scheduler::SequenceView> waiting_views;
  std::vector<kv_cache::Growth> growths;
  scheduler::Scratch scratch;
};

}  // namespace inflight::executor
