// Replicas behind a router: who gets a request is the caller's business.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/simulation/replica.h"

namespace inflight::simulation {

class Fleet {
 public:
  /// `trace` outlives it. Bins of the timeline are `bin_seconds` long.
  Fleet(const Trace& trace, const ReplicaConfig& config, int32_t num_replicas, double bin_seconds);

  /// Every replica makes the steps that it plans before `time`.
  void advance_to(double time);
  /// The next request of the trace goes to `replica`; false if it could never run there.
  bool submit(int32_t replica);
  /// The next requests of the trace go to these replicas, whatever their load.
  void submit_all(std::span<const int32_t> replicas);
  /// Until nothing is left to do.
  void drain();

  int64_t num_submitted() const { return next_; }
  int32_t num_replicas() const { return static_cast<int32_t>(replicas_.size()); }
  const Replica& replica(int32_t index) const { return *replicas_[index]; }
  /// When the last step ended, s.
  double now() const;
  const std::vector<RequestRecord>& records() const { return records_; }
  const Timeline& timeline() const { return timeline_; }

 private:
  Replica& at(int32_t replica);

  const Trace& trace_;
  std::vector<RequestRecord> records_;
  Timeline timeline_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  int64_t next_ = 0;  // in the trace
};

}  // namespace inflight::simulation
