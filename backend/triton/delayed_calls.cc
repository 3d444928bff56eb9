#include "backend/triton/delayed_calls.h"

#include <utility>

namespace inflight::triton {

DelayedCalls::~DelayedCalls() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void DelayedCalls::add(std::function<void()> call) {
  std::lock_guard lock(mutex_);
  due_.push_back({Clock::now() + delay_, std::move(call)});
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  wake_.notify_one();
}

void DelayedCalls::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return closed_ || !due_.empty(); });
    if (due_.empty()) return;
    wake_.wait_until(lock, due_.front().time, [this] { return closed_; });
    std::function<void()> call = std::move(due_.front().call);
    due_.pop_front();
    lock.unlock();
    call();
    call = nullptr;  // what it held goes before the lock is taken again
    lock.lock();
  }
}

}  // namespace inflight::triton
