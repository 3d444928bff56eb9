#include "backend/triton/instance_state.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "backend/triton/response_writer.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

/// Between the end of a request whose client has left and its final response. A tritonserver before
/// 2.57 frees a gRPC stream's state twice if the final response comes while the stream's
/// cancellation is being handled, that is, while a response written before is still on its way
/// through the stream's queue of events. The blocks are free before this wait begins.
constexpr std::chrono::milliseconds kQuietTime{100};

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

}  // namespace

/// A request on its way through the engine.
struct InstanceState::Live {
  Live(TRITONBACKEND_Request* from, std::string id, uint64_t now)
      : request(from), client_id(std::move(id)), start_ns(now) {}

  TRITONBACKEND_Request* const request;
  const std::string client_id;
  const uint64_t start_ns;
  std::unique_ptr<ResponseWriter> writer;
  executor::RequestId id = 0;  // 0 until queued; guarded by InstanceState::mutex_
  bool done = false;           // guarded by InstanceState::mutex_
  // Told by a stop command: an ensemble's cancellation does not reach the running step.
  std::atomic<bool> client_left = false;

  bool nobody_listens() const { return client_left || writer->is_cancelled(); }
};

InstanceState::InstanceState(TRITONBACKEND_ModelInstance* instance, const ModelSettings& settings,
                             MetricFamilies& families, std::unique_ptr<executor::Engine> engine)
    : instance_(instance),
      settings_(settings),
      metrics_(
          std::make_unique<Metrics>(families, settings.name, settings.version, engine->info())),
      late_endings_(kQuietTime),
      engine_(std::move(engine)) {
  metrics_->publish(engine_->stats());
  engine_->on_step([this](const executor::EngineStats& stats) { after_step(stats); });
}

InstanceState::~InstanceState() { engine_->shut_down(); }

void InstanceState::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) accept(requests[i]);
}

void InstanceState::accept(TRITONBACKEND_Request* request) {
  const uint64_t start_ns = now_ns();
  TRITONBACKEND_ResponseFactory* factory = nullptr;
  if (auto* error = TRITONBACKEND_ResponseFactoryNew(&factory, request)) {
    log_if_error(error, "ResponseFactoryNew");
    log_if_error(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL),
                 "RequestRelease");
    return;
  }
  std::shared_ptr<Live> live;  // from here on it owns the factory
  TRITONSERVER_Error* error = guarded([&] {
    IncomingRequest incoming = read_request(request, settings_.reader);
    if (incoming.stop) {
      stop(incoming);
      return;
    }
    live = std::make_shared<Live>(request, incoming.id, start_ns);
    live->writer =
        std::make_unique<ResponseWriter>(factory, incoming.reply, incoming.request, receipts_);
    submit(live, std::move(incoming));
  });
  if (error == nullptr && live != nullptr) return;  // the engine will answer

  const bool success = error == nullptr;
  send_final(factory, error);
  if (live == nullptr || live->writer == nullptr)
    log_if_error(TRITONBACKEND_ResponseFactoryDelete(factory), "ResponseFactoryDelete");
  live.reset();
  finish(request, success, start_ns, now_ns());
}

void InstanceState::submit(const std::shared_ptr<Live>& live, IncomingRequest incoming) {
  const executor::RequestId id =
      engine_->submit(std::move(incoming.request),
                      [this, live](executor::Response&& part) { answer(live, std::move(part)); });
  std::lock_guard lock(mutex_);
  live->id = id;
  if (!live->done) live_.emplace(id, live);
}

void InstanceState::stop(const IncomingRequest& command) {
  std::vector<executor::RequestId> ids;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, live] : live_) {
      const bool named = command.engine_request_id != 0 ? command.engine_request_id == public_id(id)
                                                        : command.id == live->client_id;
      if (!named) continue;
      if (command.client_left) live->client_left = true;
      ids.push_back(id);
    }
  }
  for (executor::RequestId id : ids) engine_->cancel(id);
}

void InstanceState::answer(const std::shared_ptr<Live>& live, executor::Response&& part) {
  const bool unheard = live->nobody_listens();
  if (!part.is_final) {
    if (unheard) return;  // its end is under way: after_step() or the stop command saw to it
    const executor::RequestId id = part.id;
    TRITONSERVER_Error* error =
        guarded([&] { live->writer->send(std::move(part), public_id(id)); });
    if (error == nullptr) return;
    log_if_error(error, "response");
    engine_->cancel(id);  // nobody can hear it any more
    return;
  }
  {
    std::lock_guard lock(mutex_);
    live->done = true;
    live_.erase(part.id);
  }
  publish_if_idle();
  if (unheard)
    late_endings_.add([this, live, part = std::move(part)] { end(*live, part); });
  else
    end(*live, part);
}

void InstanceState::end(Live& live, const executor::Response& part) {
  log_if_error(guarded([&] { live.writer->send(part, public_id(part.id)); }), "response");
  live.writer.reset();
  const auto first_scheduled = static_cast<uint64_t>(part.times.first_scheduled_ns);
  finish(live.request, !part.error, live.start_ns, std::max(first_scheduled, live.start_ns));
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

bool InstanceState::publish_if_idle() {
  const executor::EngineStats newest = engine_->stats();
  if (newest.active_requests == 0) metrics_->publish(newest);
  return newest.active_requests == 0;
}

void InstanceState::after_step(const executor::EngineStats& stats) {
  if (!publish_if_idle()) metrics_->publish(stats);
  std::vector<executor::RequestId> cancelled;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, live] : live_)
      if (live->writer->is_cancelled()) cancelled.push_back(id);
  }
  for (executor::RequestId id : cancelled) engine_->cancel(id);
}

}  // namespace inflight::triton
