// What is known of a simulated request in the end, and of the replicas over time.
#pragma once

#include <cstdint>
#include <vector>

namespace inflight::simulation {

enum class RequestState : uint8_t { kNotSent, kLive, kFinished, kRefused };

struct RequestRecord {
  RequestState state = RequestState::kNotSent;
  int16_t replica = -1;
  int32_t num_preemptions = 0;
  int32_t num_cached = 0;     // tokens of the prompt that it found in the cache when first admitted
  int32_t num_generated = 0;  // tokens given to the caller
  // Seconds since the trace's start.
  double arrival = 0;
  double admitted = 0;  // first
  double first_token = 0;
  double finished = 0;
  double longest_gap = 0;  // between two of its tokens
};

/// Sums over a stretch of time, of all replicas: levels as level times seconds.
struct TimelineBin {
  double waiting = 0;        // requests x s
  double running = 0;        // requests x s
  double busy = 0;           // s that devices were at work
  double used_blocks = 0;    // blocks x s, held by running sequences
  double cached_blocks = 0;  // blocks x s, held by nobody, with content that may be found again
  int64_t generated_tokens = 0;
  int64_t prompt_tokens = 0;  // computed
  int64_t cached_tokens = 0;  // found
  int64_t preemptions = 0;
  int64_t steps = 0;
};

/// Bins of equal length from time 0 on, as many as were needed.
class Timeline {
 public:
  explicit Timeline(double bin_seconds) : bin_seconds_(bin_seconds) {}

  TimelineBin& at(double time);
  /// Adds `level` times the seconds of [begin, end) to the bins in which they lie.
  void add_level(double TimelineBin::* what, double level, double begin, double end);

  double bin_seconds() const { return bin_seconds_; }
  const std::vector<TimelineBin>& bins() const { return bins_; }

 private:
  double bin_seconds_;
  std::vector<TimelineBin> bins_;
};

}  // namespace inflight::simulation
