// Requests that follow the cache's events: each gets what has happened since its last response as
// it comes, until its time is over, it is stopped, its client leaves, or the engine dies. A thread
// of its own looks every few milliseconds while there are any. Knows no engine.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "backend/kv_cache/cache_event_json.h"
#include "backend/triton/delayed_calls.h"
#include "backend/triton/live_request.h"
#include "backend/triton/request_reader.h"

namespace inflight::triton {

class EventStreams {
 public:
  using LivePtr = std::shared_ptr<LiveRequest>;
  /// Events from this id on, oldest first; may raise Error.
  using Read = std::function<kv_cache::CacheEvents(int64_t first_id)>;
  /// Releases a request that has had its last response.
  using Release = std::function<void(const LiveRequest& live, bool success)>;

  /// `id_base` is added to the ids that are told.
  EventStreams(Read read, Release release, int64_t id_base);
  /// Ends all of them.
  ~EventStreams();
  EventStreams(const EventStreams&) = delete;
  EventStreams& operator=(const EventStreams&) = delete;

  /// Tells what there is after the question's event, at once. Whether there is more to come, after
  /// which the request is released. Raises Error, and has sent nothing then.
  bool answer(const LivePtr& live, const IncomingRequest& question);
  /// Ends those of this request id.
  void stop(const std::string& id);

 private:
  using Clock = std::chrono::steady_clock;
  struct Follower {
    LivePtr live;
    int64_t next_id;
    Clock::time_point end;
    bool is_stopped = false;
  };

  void run();
  /// Tells it what is new; whether that was its last response.
  bool serve(Follower& follower, bool is_closing);
  void end(const LivePtr& live, const std::string& events, TRITONSERVER_Error* error) const;
  /// As JSON; `next_id` goes beyond them.
  std::string read_from(int64_t& next_id) const;

  const Read read_;
  const Release release_;
  const int64_t id_base_;
  DelayedCalls late_endings_;
  std::mutex mutex_;  // guards what follows; responses of one follower keep their order under it
  std::condition_variable wake_;
  std::list<Follower> followers_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace inflight::triton
