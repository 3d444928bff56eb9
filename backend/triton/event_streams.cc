#include "backend/triton/event_streams.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "backend/triton/response_builder.h"
#include "backend/triton/response_writer.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

/// Between two looks for events and for clients that have left. Events of a step come together.
constexpr std::chrono::milliseconds kPeriod{5};
/// How long a stream stays open if it does not say, and at most: an open request keeps a model from
/// being unloaded, and a server from its end.
constexpr int32_t kDurationMs = 10'000, kMaxDurationMs = 60'000;

void send(LiveRequest& live, const std::string& events, bool is_final) {
  const std::vector<std::string> outputs = {"kv_cache_events"};
  ResponseBuilder response(live.factory, outputs, live.unfilled);
  response.add_text("kv_cache_events", events);
  const uint32_t flags = is_final ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  log_if_error(TRITONBACKEND_ResponseSend(response.take().release(), flags, nullptr),
               "ResponseSend");
}

}  // namespace

EventStreams::EventStreams(Read read, Release release, int64_t id_base)
    : read_(std::move(read)),
      release_(std::move(release)),
      id_base_(id_base),
      late_endings_(kQuietTime) {}

EventStreams::~EventStreams() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool EventStreams::answer(const LivePtr& live, const IncomingRequest& question) {
  int64_t next_id =
      std::max<int64_t>(0, std::max(*question.events_after, int64_t{-1}) - id_base_ + 1);
  const int32_t duration_ms = question.timeout_ms.value_or(kDurationMs);
  check(!question.streaming || (duration_ms >= 1 && duration_ms <= kMaxDurationMs),
        "timeout_ms is ", duration_ms, "; a stream of cache events lasts at least 1 and at most ",
        kMaxDurationMs);
  live->id = question.id;
  std::lock_guard lock(mutex_);
  // Before there is a response: the server's stream waits for each that was begun.
  const std::string events = read_from(next_id);
  send(*live, events, /*is_final=*/!question.streaming);
  if (!question.streaming) return false;
  followers_.push_back({live, next_id, Clock::now() + std::chrono::milliseconds(duration_ms)});
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  wake_.notify_one();
  return true;
}

void EventStreams::stop(const std::string& id) {
  if (id.empty()) return;
  std::lock_guard lock(mutex_);
  for (Follower& follower : followers_)
    if (follower.live->id == id) follower.is_stopped = true;
}

void EventStreams::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return closed_ || !followers_.empty(); });
    std::erase_if(followers_, [this](Follower& follower) { return serve(follower, closed_); });
    if (closed_) return;
    wake_.wait_for(lock, kPeriod, [this] { return closed_; });
  }
}

bool EventStreams::serve(Follower& follower, bool is_closing) {
  const bool has_left = follower.live->is_cancelled();
  const bool ends = is_closing || has_left || follower.is_stopped || Clock::now() >= follower.end;
  const int64_t told = follower.next_id;
  std::string events;
  TRITONSERVER_Error* error = guarded([&] {
    events = read_from(follower.next_id);
    if (!ends && follower.next_id != told) send(*follower.live, events, /*is_final=*/false);
  });
  if (!ends && error == nullptr) return false;
  if (has_left)
    late_endings_.add([this, live = follower.live, events, error] { end(live, events, error); });
  else
    end(follower.live, events, error);
  return true;
}

void EventStreams::end(const LivePtr& live, const std::string& events,
                       TRITONSERVER_Error* error) const {
  if (error == nullptr) error = guarded([&] { send(*live, events, /*is_final=*/true); });
  const bool success = error == nullptr;
  if (!success) send_error(live->factory, error, /*is_final=*/true, std::move(live->unfilled));
  live->delete_factory();
  release_(*live, success);
}

std::string EventStreams::read_from(int64_t& next_id) const {
  const kv_cache::CacheEvents events = read_(next_id);
  if (!events.empty()) next_id = events.back()->id + 1;
  return kv_cache::to_json(events, id_base_);
}

}  // namespace inflight::triton
