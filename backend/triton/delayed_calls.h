// Makes calls some time after they were handed in, in that order, on a thread of its own. Knows
// nothing of Triton. The thread starts with the first call: most servers never need one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace inflight::triton {

class DelayedCalls {
 public:
  explicit DelayedCalls(std::chrono::milliseconds delay) : delay_(delay) {}
  /// Makes the calls still due, at once.
  ~DelayedCalls();
  DelayedCalls(const DelayedCalls&) = delete;
  DelayedCalls& operator=(const DelayedCalls&) = delete;

  /// Any thread. `call` must not raise.
  void add(std::function<void()> call);

 private:
  using Clock = std::chrono::steady_clock;
  struct Due {
    Clock::time_point time;
    std::function<void()> call;
  };

  void run();

  const std::chrono::milliseconds delay_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<Due> due_;  // by time
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace inflight::triton
