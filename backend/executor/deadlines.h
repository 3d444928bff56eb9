// When a request's time is up, and how it ends then. Pure; times are nanoseconds of steady_clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>

#include "backend/executor/sequence.h"

namespace inflight::executor {

constexpr int64_t kNoDeadline = std::numeric_limits<int64_t>::max();

/// The time after which `sequence` is overdue: its request's deadline or, while it waits, the end
/// of `queue_timeout` (0: none).
int64_t deadline_of(const Sequence& sequence, std::chrono::milliseconds queue_timeout);

struct Ending {
  FinishReason reason;
  std::optional<Error> error;
};

/// Of an overdue one: with the tokens it has, or with an error if there are none.
Ending ending_of_overdue(const Sequence& sequence, std::chrono::milliseconds queue_timeout,
                         int64_t now_ns);

}  // namespace inflight::executor
