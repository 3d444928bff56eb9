#include "backend/simulation/fleet.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/check.h"

namespace inflight::simulation {

Fleet::Fleet(const Trace& trace, const ReplicaConfig& config, int32_t num_replicas,
             double bin_seconds)
    : trace_(trace), records_(trace.size()), timeline_(bin_seconds) {
  check(num_replicas >= 1 && num_replicas <= std::numeric_limits<int16_t>::max(), "num_replicas ",
        num_replicas, " is not in 1 ... ", std::numeric_limits<int16_t>::max());
  check(bin_seconds > 0 && std::isfinite(bin_seconds), "bin_seconds ", bin_seconds, " is not > 0");
  validate(config);
  for (int32_t i = 0; i < num_replicas; ++i)
    replicas_.push_back(
        std::make_unique<Replica>(static_cast<int16_t>(i), trace, config, records_, timeline_));
}

Replica& Fleet::at(int32_t replica) {
  check(replica >= 0 && replica < num_replicas(), "replica ", replica, " of ", num_replicas());
  return *replicas_[replica];
}

void Fleet::advance_to(double time) {
  for (auto& replica : replicas_) replica->advance_to(time);
}

bool Fleet::submit(int32_t replica) {
  check(next_ < trace_.size(), "all ", trace_.size(), " requests of the trace were sent");
  Replica& chosen = at(replica);
  chosen.advance_to(trace_.request(next_).arrival);
  return chosen.submit(next_++);
}

void Fleet::submit_all(std::span<const int32_t> replicas) {
  for (int32_t replica : replicas) submit(replica);
}

void Fleet::drain() {
  for (auto& replica : replicas_) replica->drain();
}

double Fleet::now() const {
  double latest = 0;
  for (const auto& replica : replicas_) latest = std::max(latest, replica->now());
  return latest;
}

}  // namespace inflight::simulation
