// When a request's time is up, and how it ends then. Times are nanoseconds of steady_clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "backend/executor/sequence.h"

namespace inflight::executor {

constexpr int64_t kNoDeadline = std::numeric_limits<int64_t>::max();

/// The time after which `sequence` is overdue: its request's deadline or, until it has begun to
/// run, the end of `queue_timeout` (0: none).
int64_t deadline_of(const Sequence& sequence, std::chrono::milliseconds queue_timeout);

struct Ending {
  FinishReason reason;
  std::optional<Error> error;
};

/// Of an overdue one: with the tokens it has, or with an error if there are none.
Ending ending_of_overdue(const Sequence& sequence, std::chrono::milliseconds queue_timeout,
                         int64_t now_ns);

/// The live sequences that have a deadline, so that those overdue are found without looking at the
/// others.
class Deadlines {
 public:
  explicit Deadlines(std::chrono::milliseconds queue_timeout) : queue_timeout_(queue_timeout) {}

  void add(Sequence& sequence);
  /// When it has ended.
  void remove(Sequence& sequence);
  /// One that is overdue, or null; it stays here until it is removed.
  Sequence* overdue(int64_t now_ns);
  bool empty() const { return by_time_.empty(); }

 private:
  const std::chrono::milliseconds queue_timeout_;
  // By deadline_key_ns, which for one that runs may be the queue's timeout still.
  std::set<std::pair<int64_t, Sequence*>> by_time_;
};

}  // namespace inflight::executor
