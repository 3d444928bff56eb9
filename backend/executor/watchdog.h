// Notices that the engine thread does not come back from a round of its loop: a device that hangs,
// a collective whose partner is gone. Has a thread of its own; fires once.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace inflight::executor {

/// Written by the engine thread, read by the watchdog's.
class Heartbeat {
 public:
  /// A round begins; nanoseconds of steady_clock.
  void beat(int64_t now_ns) { round_since_ns_ = now_ns; }
  /// The thread waits for work: as long as it likes.
  void rest() { round_since_ns_ = 0; }
  /// 0 while it rests.
  int64_t round_since_ns() const { return round_since_ns_; }

 private:
  std::atomic<int64_t> round_since_ns_{0};
};

class Watchdog {
 public:
  /// Calls `on_stall` on its thread when a round takes longer than `timeout`, and never again.
  /// `heart` outlives it.
  Watchdog(std::chrono::milliseconds timeout, const Heartbeat& heart,
           std::function<void(std::chrono::milliseconds)> on_stall);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void run();

  const std::chrono::milliseconds timeout_;
  const Heartbeat& heart_;
  const std::function<void(std::chrono::milliseconds)> on_stall_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool closed_ = false;  // under mutex_
  std::thread thread_;
};

}  // namespace inflight::executor
