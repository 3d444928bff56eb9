#include "backend/triton/bls_instance.h"

#include <chrono>
#include <utility>
#include <vector>

#include "backend/triton/live_request.h"
#include "backend/triton/steady_clock.h"
#include "backend/triton/triton_error.h"

namespace inflight::triton {

namespace {

/// Between two looks at the clients: under a step of the smallest engines.
constexpr std::chrono::milliseconds kPeriod{1};

std::string id_of(TRITONBACKEND_Request* request) {
  const char* id = nullptr;
  check_triton(TRITONBACKEND_RequestId(request, &id), "RequestId");
  return id;
}

}  // namespace

BlsInstance::BlsInstance(TRITONBACKEND_ModelInstance* instance, TRITONSERVER_Server* server,
                         BlsSettings settings)
    : instance_(instance),
      settings_(std::move(settings)),
      calls_(server),
      late_endings_(kQuietTime),
      asking_([this] { look_for_clients(); }) {}

BlsInstance::~BlsInstance() {
  std::unique_lock lock(mutex_);
  const std::vector<std::shared_ptr<BlsRun>> left(runs_.begin(), runs_.end());
  lock.unlock();
  for (const auto& run : left) run->cancel();
  lock.lock();
  changed_.wait(lock, [this] { return runs_.empty(); });
  closed_ = true;
  lock.unlock();
  changed_.notify_all();
  asking_.join();
}

void BlsInstance::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) accept(requests[i]);
}

void BlsInstance::accept(TRITONBACKEND_Request* request) {
  const uint64_t start_ns = now_ns();
  std::shared_ptr<BlsRun> run;
  TRITONSERVER_Error* error = guarded([&] {
    auto live = std::make_unique<LiveRequest>(request, start_ns);
    live->id = id_of(request);
    run = std::make_shared<BlsRun>(std::move(live), settings_, calls_, late_endings_,
                                   [this](BlsRun& ended, bool success) { end(ended, success); });
  });
  if (error != nullptr) {  // there is nothing to answer with
    log_if_error(error, "request");
    release(request, /*success=*/false, start_ns);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    runs_.insert(run);
  }
  changed_.notify_all();
  run->start();
}

void BlsInstance::end(BlsRun& run, bool success) {
  LiveRequest& live = run.live();
  live.delete_factory();
  release(live.request, success, live.start_ns);
  std::lock_guard lock(mutex_);
  runs_.erase(run.shared_from_this());
  changed_.notify_all();
}

void BlsInstance::release(TRITONBACKEND_Request* request, bool success, uint64_t start_ns) {
  const uint64_t end_ns = now_ns();
  log_if_error(TRITONBACKEND_ModelInstanceReportStatistics(instance_, request, success, start_ns,
                                                           start_ns, end_ns, end_ns),
               "ModelInstanceReportStatistics");
  log_if_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance_, /*batch_size=*/1,
                                                                start_ns, start_ns, end_ns, end_ns),
               "ModelInstanceReportBatchStatistics");
  log_if_error(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL),
               "RequestRelease");
}

void BlsInstance::look_for_clients() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closed_ || !runs_.empty(); });
    if (closed_) return;
    const std::vector<std::shared_ptr<BlsRun>> runs(runs_.begin(), runs_.end());
    lock.unlock();
    for (const auto& run : runs) run->look_for_client();
    lock.lock();
    changed_.wait_for(lock, kPeriod, [this] { return closed_; });
  }
}

}  // namespace inflight::triton
