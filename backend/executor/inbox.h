// What reaches the engine thread: new requests, cancels, tasks. The only engine memory that other
// threads touch, behind one lock; also counts the waiting requests against max_queue_size.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/executor/sequence.h"
#include "kernels/core/error.h"

namespace inflight::kv_cache {
class KvCacheManager;
}

namespace inflight::executor {

class ModelExecutor;

/// Work that needs the engine thread's possessions, between two steps; null if it is too late.
/// Raises nothing.
using EngineTask = std::function<void(kv_cache::KvCacheManager* cache, ModelExecutor* executor)>;

class Inbox {
 public:
  /// `max_waiting` = 0: unbounded. Who waits for something stays awake for `spin` before it sleeps.
  explicit Inbox(int max_waiting, std::chrono::microseconds spin = {})
      : max_waiting_(max_waiting), spin_(spin) {}

  /// Any thread. All or none; `max_new_tokens` of each. Raises resource_exhausted if the queue has
  /// no place for them all, or the error given to close.
  std::vector<RequestId> submit(std::vector<Submission> submissions,
                                std::span<const int> max_new_tokens, int64_t now_ns) {
    const int count = static_cast<int>(submissions.size());
    std::vector<RequestId> ids;
    std::unique_lock lock(mutex_);
    if (closed_) throw *closed_;
    if (max_waiting_ > 0 && num_waiting_ + count > max_waiting_) {
      throw Error(ErrorCode::kResourceExhausted,
                  concat("Maximum queue size of ", max_waiting_, " has been reached with ",
                         num_waiting_.load(), " waiting requests",
                         count > 1 ? concat(" and ", count, " more in this one") : std::string(),
                         ". Exceeds maximum queue size, try again later"));
    }
    for (int i = 0; i < count; ++i) {
      Arrival arrival;
      arrival.id = ++last_id_;
      arrival.channel = std::make_unique<ResponseChannel>(
          arrival.id, *submissions[i].request, std::move(submissions[i].callback), now_ns);
      arrival.twin_id = twin_of(arrival.id, submissions[i].request);
      arrival.request = std::move(submissions[i].request);
      arrival.max_new_tokens = max_new_tokens[i];
      arrival.arrival_ns = now_ns;
      arrivals_.push_back(std::move(arrival));
      ids.push_back(last_id_);
    }
    has_news_ = true;
    num_waiting_ += count;
    lock.unlock();
    wake_.notify_one();
    return ids;
  }

  void cancel(RequestId id) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      cancels_.push_back(id);
      has_news_ = true;
    }
    wake_.notify_one();
  }

  /// Any thread. Raises the error given to close.
  void run(EngineTask task) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) throw *closed_;
      tasks_.push_back(std::move(task));
      has_news_ = true;
    }
    wake_.notify_one();
  }

  /// submit raises `reason` from now on, and take answers false.
  void close(Error reason) {
    {
      std::lock_guard lock(mutex_);
      if (!closed_) closed_ = std::move(reason);
      has_news_ = true;
    }
    wake_.notify_one();
  }

  /// Engine thread: moves what came into the (empty) vectors, waiting for something if `wait`.
  /// False once closed; the vectors then hold the last that came.
  bool take(std::vector<Arrival>& arrivals, std::vector<RequestId>& cancels,
            std::vector<EngineTask>& tasks, bool wait) {
    if (wait) stay_awake();
    std::unique_lock lock(mutex_);
    if (wait) {
      wake_.wait(lock, [this] {
        return closed_ || !arrivals_.empty() || !cancels_.empty() || !tasks_.empty();
      });
    }
    arrivals.swap(arrivals_);
    cancels.swap(cancels_);
    tasks.swap(tasks_);
    has_news_ = closed_.has_value();
    return !closed_;
  }

  /// Engine thread: a request runs now, or ended before it ran.
  void left_queue() { --num_waiting_; }

 private:
  /// Of the newest run of requests with this prompt the first, if it is still there: samples of a
  /// prompt come one after another, in one request or in several. Under mutex_.
  RequestId twin_of(RequestId id, const std::shared_ptr<const Request>& request) {
    const std::shared_ptr<const Request> first = first_of_run_.lock();
    const bool repeats = first != nullptr && first->input_ids == request->input_ids &&
                         first->cache_scope == request->cache_scope;
    if (!repeats) {
      first_of_run_ = request;
      first_id_of_run_ = id;
      return 0;
    }
    return request->return_context_logits ? 0 : first_id_of_run_;  // those want all tokens run
  }
  void stay_awake() const {
    const auto asleep_from = std::chrono::steady_clock::now() + spin_;
    while (!has_news_ && std::chrono::steady_clock::now() < asleep_from) std::this_thread::yield();
  }

  const int max_waiting_;
  const std::chrono::microseconds spin_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Arrival> arrivals_;
  std::vector<RequestId> cancels_;
  std::vector<EngineTask> tasks_;
  std::optional<Error> closed_;
  RequestId last_id_ = 0;
  std::weak_ptr<const Request> first_of_run_;
  RequestId first_id_of_run_ = 0;
  std::atomic<bool> has_news_ = false;  // written under mutex_
  std::atomic<int> num_waiting_{0};     // here and with the engine; raised under mutex_
};

}  // namespace inflight::executor
