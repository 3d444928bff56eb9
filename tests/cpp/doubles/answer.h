// What a request of a test answered, gathered part by part.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/executor/engine.h"

namespace inflight::testing {

/// Gathers one request's parts; `done` is ready with the final one.
class Answer {
 public:
  executor::ResponseCallback callback() {
    return [this](executor::Response&& part) {
      std::lock_guard lock(mutex_);
      ++num_parts_;
      num_finals_ += part.is_final;
      tokens_.insert(tokens_.end(), part.token_ids.begin(), part.token_ids.end());
      if (part.is_final) last_ = std::move(part);
      changed_.notify_all();
    };
  }
  const executor::Response& wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_finals_ > 0; });
    return last_;
  }
  void wait_for_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tokens_.size() >= count; });
  }
  std::vector<int32_t> tokens() const { return with_lock(tokens_); }
  int num_parts() const { return with_lock(num_parts_); }
  int num_finals() const { return with_lock(num_finals_); }

 private:
  template <typename T>
  T with_lock(const T& value) const {
    std::lock_guard lock(mutex_);
    return value;
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> tokens_;
  int num_parts_ = 0;
  int num_finals_ = 0;
  executor::Response last_;
};

}  // namespace inflight::testing
