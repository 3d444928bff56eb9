#include "backend/executor/watchdog.h"

#include <algorithm>
#include <utility>

namespace inflight::executor {

namespace {

using std::chrono::milliseconds;

/// How late it may notice, as a part of its patience.
constexpr int kLooksInTimeout = 8;

}  // namespace

Watchdog::Watchdog(milliseconds timeout, const Heartbeat& heart,
                   std::function<void(milliseconds)> on_stall)
    : timeout_(timeout),
      heart_(heart),
      on_stall_(std::move(on_stall)),
      thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Watchdog::run() {
  const milliseconds interval = std::max(milliseconds(1), timeout_ / kLooksInTimeout);
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, interval, [this] { return closed_; })) {
    const int64_t since_ns = heart_.round_since_ns();
    if (since_ns == 0) continue;
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    const auto took =
        std::chrono::duration_cast<milliseconds>(now - std::chrono::nanoseconds(since_ns));
    if (took <= timeout_) continue;
    lock.unlock();
    on_stall_(took);
    return;
  }
}

}  // namespace inflight::executor
