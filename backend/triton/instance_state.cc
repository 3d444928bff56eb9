#include "backend/triton/instance_state.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "backend/triton/response_writer.h"
#include "backend/triton/steady_clock.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

using Clock = std::chrono::steady_clock;

/// Whether it is time; the next time is a period later then.
bool is_due(Clock::time_point& due, std::chrono::milliseconds period) {
  const Clock::time_point now = Clock::now();
  if (now < due) return false;
  due = now + period;
  return true;
}

/// A heartbeat costs the server about 40 us: at most one a millisecond, all requests together, and
/// no request more often than this.
constexpr std::chrono::milliseconds kHeartbeatPeriod{5};
constexpr int64_t kMaxHeartbeatsAtOnce = 5;

/// Ids of events that begin with it go on growing when a server starts again, and one below 2^53
/// is a whole number to every reader of JSON.
int64_t unix_time_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

InstanceState::InstanceState(TRITONBACKEND_ModelInstance* instance, const ModelSettings& settings,
                             MetricFamilies& families, std::unique_ptr<executor::Engine> engine,
                             std::function<void()> take_out_of_service)
    : instance_(instance),
      settings_(settings),
      reader_(settings.reader),
      groups_([this](executor::RequestId id) { engine_->cancel(id); }),
      events_base_(unix_time_us()),
      metrics_(std::make_unique<Metrics>(families, settings.name, settings.version, engine->info(),
                                         settings.batching_numbers)),
      late_endings_(kQuietTime),
      engine_(std::move(engine)),
      event_streams_(
          [this](int64_t first_id) {
            constexpr int64_t kMaxTokens = 65'536;  // of a response: about 4 MB of JSON
            check_ready();
            return engine_->read_kv_cache_events(first_id, kMaxTokens);
          },
          [this](const LiveRequest& live, bool success) {
            finish(live.request, success, live.start_ns, live.start_ns);
          },
          events_base_) {
  check_attention_window(settings_, engine_->info());
  reader_.vocab_size = engine_->info().vocab_size;
  if (settings_.use_model_end_ids) reader_.model_end_ids = engine_->info().end_ids;
  metrics_->publish(engine_->stats());
  engine_->on_failure(
      [this, take_out_of_service = std::move(take_out_of_service)](const std::string&) {
        metrics_->publish(engine_->stats());
        if (take_out_of_service) take_out_of_service();
      });
  engine_->on_step([this](const executor::EngineStats& stats) { after_step(stats); });
  engine_->on_wait([this] { look_for_departures(); });
}

InstanceState::~InstanceState() { engine_->shut_down(); }

void InstanceState::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) accept(requests[i]);
}

void InstanceState::check_ready() const {
  if (!engine_->is_healthy())
    throw Error(ErrorCode::kUnavailable, concat(settings_.name, ": the engine has died"));
}

void InstanceState::accept(TRITONBACKEND_Request* request) {
  const uint64_t start_ns = now_ns();
  LivePtr live;
  bool accepted = false, is_answered = false;
  TRITONSERVER_Error* error = guarded([&] {
    live = std::make_shared<LiveRequest>(request, start_ns);
    const IncomingRequest incoming = read_request(request, reader_);
    if (incoming.stop) {
      stop(incoming);
      return;
    }
    if (incoming.events_after) {
      accepted = event_streams_.answer(live, incoming);
      is_answered = true;
      return;
    }
    live->add_sequences(incoming, receipts_, groups_);
    submit(live, incoming);
    accepted = true;
  });
  if (accepted) return;  // the engine will answer

  const bool success = error == nullptr;
  if (live == nullptr) {
    log_if_error(error, "ResponseFactoryNew");
  } else {
    if (!is_answered)
      send_error(live->factory, error, /*is_final=*/true, std::move(live->unfilled));
    live->delete_factory();
  }
  finish(request, success, start_ns, now_ns());
}

void InstanceState::submit(const LivePtr& live, const IncomingRequest& incoming) {
  std::vector<executor::Submission> submissions;
  for (size_t i = 0; i < incoming.sequences.size(); ++i) {
    submissions.push_back(
        {incoming.sequences[i].request,
         [this, live, i](executor::Response&& part) { answer(live, i, std::move(part)); }});
  }
  const std::vector<executor::RequestId> ids = engine_->submit(std::move(submissions));
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < ids.size(); ++i) {
    live->sequences[i].id = ids[i];
    if (!live->sequences[i].done) live_.emplace(ids[i], live);
  }
}

void InstanceState::stop(const IncomingRequest& command) {
  std::vector<executor::RequestId> ids;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, live] : live_) {
      const bool named = command.engine_request_id != 0 ? command.engine_request_id == public_id(id)
                                                        : command.id == live->id;
      if (!named) continue;
      ids.push_back(id);
      if (command.engine_request_id == 0) continue;
      for (LiveRequest::Sequence& sequence : live->sequences)
        if (sequence.id == id) sequence.has_its_text = true;
    }
  }
  for (executor::RequestId id : ids) engine_->cancel(id);
  if (command.engine_request_id == 0) event_streams_.stop(command.id);
}

void InstanceState::answer(const LivePtr& live, size_t sequence, executor::Response&& part) {
  live->count(sequence, part);
  const bool unheard = live->nobody_listens();
  if (!part.is_final) {
    // Its end is under way: after_step(), the stop command or keep_failure() saw to it; or a part
    // before it was lost, and it was cancelled.
    if (unheard || live->failure || live->sequences[sequence].writer->has_lost_part()) return;
    const executor::RequestId id = part.id;
    TRITONSERVER_Error* error = guarded([&] {
      const bool is_sent = live->sequences[sequence].writer->send(std::move(part), public_id(id),
                                                                  /*ends_request=*/false);
      if (is_sent) live->last_heard = Clock::now();
      live->has_spoken |= is_sent;
    });
    if (error == nullptr) return;
    log_if_error(error, "response");
    engine_->cancel(id);  // nobody can hear it any more
    return;
  }
  groups_.send_all();  // what they hold of it comes before its end, and while its factory is there
  if (live->sequences[sequence].writer->has_lost_part() && !part.error) {
    part.finish_reason = executor::FinishReason::kError;
    part.error.emplace(ErrorCode::kInternal, "the server did not take a part of the answer");
  }
  const bool is_last = close(*live, sequence, part);
  if (part.error && live->sequences[sequence].writer->wants_heartbeats()) keep_failure(*live, part);
  publish_if_idle();
  if (!is_last) {
    if (unheard || live->failure) return;
    live->has_spoken = true;
    log_if_error(guarded([&] {
                   live->sequences[sequence].writer->send(part, public_id(part.id),
                                                          /*ends_request=*/false);
                 }),
                 "response");
  } else if (live->failure && live->has_spoken) {
    end_quietly(live, sequence, *live->failure);
  } else if (unheard) {
    late_endings_.add(
        [this, live, sequence, part = std::move(part)] { end(*live, sequence, part); });
  } else {
    if (live->failure) part = *live->failure;
    end(*live, sequence, part);
  }
}

void InstanceState::keep_failure(LiveRequest& live, const executor::Response& part) {
  if (live.failure) return;
  live.failure = part;
  std::vector<executor::RequestId> others;
  {
    std::lock_guard lock(mutex_);
    for (const LiveRequest::Sequence& sequence : live.sequences)
      if (!sequence.done && sequence.id != 0) others.push_back(sequence.id);
  }
  for (executor::RequestId id : others) engine_->cancel(id);
}

bool InstanceState::close(LiveRequest& live, size_t sequence, executor::Response& part) {
  if (part.error) live.success = false;
  std::lock_guard lock(mutex_);
  live.sequences[sequence].done = true;
  if (live.sequences[sequence].has_its_text &&
      part.finish_reason == executor::FinishReason::kCancelled)
    part.finish_reason = executor::FinishReason::kStopWord;
  live_.erase(part.id);
  return --live.num_running == 0;
}

void InstanceState::end(LiveRequest& live, size_t sequence, const executor::Response& part) {
  TRITONSERVER_Error* error = guarded([&] {
    live.sequences[sequence].writer->send(part, public_id(part.id), /*ends_request=*/true);
  });
  if (error != nullptr) {  // nothing of it went out, and the client waits for an end
    live.success = false;
    send_error(live.factory, error, /*is_final=*/true);
  }
  for (const LiveRequest::Sequence& one : live.sequences)
    if (one.writer->has_lost_part()) live.success = false;
  live.delete_factory();
  if (live.success) {
    live.numbers.answered_ns = static_cast<int64_t>(now_ns());
    metrics_->observe(live.numbers);
  }
  const auto first_scheduled = static_cast<uint64_t>(live.numbers.times.first_scheduled_ns);
  finish(live.request, live.success, live.start_ns, std::max(first_scheduled, live.start_ns));
}

void InstanceState::end_quietly(const LivePtr& live, size_t sequence,
                                const executor::Response& part) {
  const bool is_waited_for = std::ranges::any_of(live->sequences, [this](const auto& one) {
    return one.writer->is_waited_for(public_id(one.id));
  });
  late_endings_.add([this, live, sequence, part, is_waited_for] {
    if (is_waited_for)
      end_quietly(live, sequence, part);
    else
      end(*live, sequence, part);
  });
}

void InstanceState::finish(TRITONBACKEND_Request* request, bool success, uint64_t start_ns,
                           uint64_t compute_start_ns) {
  const uint64_t end_ns = now_ns();
  log_if_error(TRITONBACKEND_ModelInstanceReportStatistics(instance_, request, success, start_ns,
                                                           compute_start_ns, end_ns, end_ns),
               "ModelInstanceReportStatistics");
  log_if_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(
                   instance_, /*batch_size=*/1, start_ns, compute_start_ns, end_ns, end_ns),
               "ModelInstanceReportBatchStatistics");
  log_if_error(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL),
               "RequestRelease");
}

void InstanceState::publish(const executor::EngineStats& stats) {
  if (!is_due(stats_due_, settings_.stats_check_period)) return;
  executor::EngineStats shown = stats;
  shown.is_healthy = engine_->is_healthy();
  metrics_->publish(shown);
}

bool InstanceState::publish_if_idle() {
  const executor::EngineStats newest = engine_->stats();
  if (newest.active_requests == 0) metrics_->publish(newest);
  return newest.active_requests == 0;
}

void InstanceState::after_step(const executor::EngineStats& stats) {
  groups_.send_all();
  if (!publish_if_idle()) publish(stats);
  look_for_departures();
}

void InstanceState::look_for_departures() {
  if (is_due(cancellations_due_, settings_.cancellation_check_period))
    cancel_what_nobody_waits_for();
  send_heartbeats();
}

void InstanceState::client_left(uint64_t public_id) {
  std::vector<executor::RequestId> ids;
  {
    std::lock_guard lock(mutex_);
    const auto found = live_.find(public_id - id_base());
    if (found == live_.end()) return;
    found->second->client_left = true;
    for (const LiveRequest::Sequence& sequence : found->second->sequences)
      if (!sequence.done) ids.push_back(sequence.id);
  }
  for (executor::RequestId id : ids) engine_->cancel(id);
}

void InstanceState::send_heartbeats() {
  const Clock::time_point now = Clock::now();
  const int64_t num_earned = (now - heartbeats_sent_) / std::chrono::milliseconds(1);
  if (num_earned == 0) return;
  std::vector<std::pair<LivePtr, executor::RequestId>> due;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, live] : live_) {
      if (live->client_left || live->failure || !live->sequences[0].writer->wants_heartbeats() ||
          now - live->last_heard < kHeartbeatPeriod)
        continue;
      due.emplace_back(live, id);
    }
  }
  if (due.empty()) return;
  heartbeats_sent_ = now;
  const size_t num_heartbeats =
      std::min<size_t>(due.size(), std::min(num_earned, kMaxHeartbeatsAtOnce));
  std::ranges::partial_sort(due, due.begin() + static_cast<ptrdiff_t>(num_heartbeats), {},
                            [](const auto& entry) { return entry.first->last_heard; });
  for (size_t i = 0; i < num_heartbeats; ++i) {
    const auto& [live, id] = due[i];
    if (live->last_heard == now) continue;  // another sequence of the same request
    live->last_heard = now;
    live->has_spoken = true;
    log_if_error(guarded([&] { live->sequences[0].writer->send_heartbeat(public_id(id)); }),
                 "heartbeat");
  }
}

void InstanceState::cancel_what_nobody_waits_for() {
  std::vector<executor::RequestId> cancelled;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, live] : live_)
      if (live->is_cancelled()) cancelled.push_back(id);
  }
  for (executor::RequestId id : cancelled) engine_->cancel(id);
}

}  // namespace inflight::triton
