// What stands between the executor's engine and Python: one queue of the parts of all requests, and
// an engine that can be closed while calls are under way. No Python in here; never holds the GIL.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/executor/engine.h"
#include "kernels/core/error.h"

namespace inflight::bindings {

/// Of a wait of so many seconds, which may be more than a clock can count, or for ever.
inline std::chrono::nanoseconds duration_of(double seconds) {
  constexpr double kDecades = 1e9;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(std::min(seconds, kDecades)));
}

struct TaggedResponse {
  int64_t tag = 0;
  int vocab_size = 0;
  executor::Response part;
};

/// Parts between the response thread and Python's readers.
class PartQueue {
 public:
  void push(int64_t tag, int vocab_size, executor::Response&& part) {
    bool wake = false;
    {
      std::lock_guard lock(mutex_);
      wake = parts_.empty();
      parts_.push_back({tag, vocab_size, std::move(part)});
      is_ready_ = true;
    }
    if (wake) wake_.notify_one();
  }

  void close() {
    {
      std::lock_guard lock(mutex_);
      is_ready_ = closed_ = true;
    }
    wake_.notify_all();
  }

  /// Nothing once closed and empty. Waits awake for `spin` seconds before it sleeps.
  std::optional<std::vector<TaggedResponse>> take(std::optional<double> timeout, double spin) {
    const auto asleep_from = Clock::now() + std::chrono::duration<double>(spin);
    while (!is_ready_ && spin > 0 && Clock::now() < asleep_from) std::this_thread::yield();
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return closed_ || !parts_.empty(); };
    if (!timeout) {
      wake_.wait(lock, ready);
    } else if (*timeout > 0) {  // even a wait for no time sleeps
      wake_.wait_for(lock, duration_of(*timeout), ready);
    }
    if (parts_.empty() && closed_) return std::nullopt;
    std::vector<TaggedResponse> taken;
    taken.swap(parts_);
    is_ready_ = closed_;
    return taken;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<TaggedResponse> parts_;
  bool closed_ = false;
  std::atomic<bool> is_ready_ = false;  // parts or closed; written under mutex_
};

class PyEngine {
 public:
  explicit PyEngine(const executor::EngineConfig& config)
      : engine_(std::make_unique<executor::Engine>(with_short_callbacks(config))),
        info_(engine_->info()),
        memory_plan_(engine_->memory_plan()) {}
  ~PyEngine() { close(); }

  executor::RequestId submit(std::shared_ptr<const executor::Request> request, int64_t tag) {
    const std::shared_lock lock(mutex_);
    return open_engine().submit(
        std::move(request),
        [parts = parts_, tag, vocab_size = info_.vocab_size](executor::Response&& part) {
          parts->push(tag, vocab_size, std::move(part));
        });
  }

  void cancel(executor::RequestId id) {
    const std::shared_lock lock(mutex_);
    if (engine_) engine_->cancel(id);
  }

  std::optional<std::vector<TaggedResponse>> next_responses(std::optional<double> timeout,
                                                            double spin) {
    return parts_->take(timeout, spin);
  }

  executor::ExportedPrefix export_prefix(const std::vector<int32_t>& token_ids,
                                         const kv_cache::PrefixScope& scope) {
    const std::shared_lock lock(mutex_);
    return open_engine().export_prefix(token_ids, scope);
  }
  void import_prefix(const executor::ExportedPrefix& prefix, const kv_cache::PrefixScope& scope) {
    const std::shared_lock lock(mutex_);
    open_engine().import_prefix(prefix, scope);
  }
  kv_cache::CacheEvents kv_cache_events(double timeout) {
    const std::shared_lock lock(mutex_);
    return open_engine().kv_cache_events(duration_of(timeout));
  }

  void close() {
    {
      const std::shared_lock lock(mutex_);
      if (engine_) engine_->shut_down();  // ends the calls that share the engine
    }
    const std::unique_lock lock(mutex_);
    if (!engine_) return;
    last_stats_ = engine_->stats();
    engine_.reset();
    parts_->close();
  }

  executor::EngineStats stats() const {
    const std::shared_lock lock(mutex_);
    return engine_ ? engine_->stats() : last_stats_;
  }
  bool is_healthy() const {
    const std::shared_lock lock(mutex_);
    return engine_ && engine_->is_healthy();
  }
  const executor::EngineInfo& info() const { return info_; }
  const std::string& memory_plan() const { return memory_plan_; }

  /// Counts a thread as a reader.
  class Reader {
   public:
    explicit Reader(PyEngine& engine) : engine_(engine) { ++engine_.num_readers_; }
    ~Reader() { --engine_.num_readers_; }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

   private:
    PyEngine& engine_;
  };
  int num_readers() const { return num_readers_; }

 private:
  executor::Engine& open_engine() {
    if (!engine_) throw Error(ErrorCode::kCancelled, "the engine is closed");
    return *engine_;
  }
  /// Ours put a part into a queue.
  static executor::EngineConfig with_short_callbacks(executor::EngineConfig config) {
    config.callbacks_return_at_once = true;
    return config;
  }

  mutable std::shared_mutex mutex_;  // calls share the engine, close has it alone
  std::unique_ptr<executor::Engine> engine_;
  const std::shared_ptr<PartQueue> parts_ = std::make_shared<PartQueue>();
  const executor::EngineInfo info_;
  const std::string memory_plan_;
  executor::EngineStats last_stats_;
  std::atomic<int> num_readers_{0};
};

/// Closes at interpreter exit what is still open: a thread that comes back from next_responses into
/// an interpreter that is gone would end the process.
class OpenEngines {
 public:
  void add(const std::shared_ptr<PyEngine>& engine) {
    std::lock_guard lock(mutex_);
    std::erase_if(engines_, [](const auto& known) { return known.expired(); });
    engines_.push_back(engine);
  }

  void close() {
    std::lock_guard lock(mutex_);
    for (const auto& known : engines_) {
      const auto engine = known.lock();
      if (!engine) continue;
      engine->close();
      const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(2);
      while (engine->num_readers() > 0 && std::chrono::steady_clock::now() < patience) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  }

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<PyEngine>> engines_;
};

}  // namespace inflight::bindings
