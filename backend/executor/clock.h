// The clock of requests and steps.
#pragma once

#include <chrono>
#include <cstdint>

namespace inflight::executor {

/// Nanoseconds of std::chrono::steady_clock.
inline int64_t now_in_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace inflight::executor
