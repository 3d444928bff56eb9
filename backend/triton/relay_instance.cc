#include "backend/triton/relay_instance.h"

#include <memory>
#include <utility>
#include <vector>

#include "backend/triton/host_tensors.h"
#include "backend/triton/live_request.h"
#include "backend/triton/response_writer.h"
#include "backend/triton/steady_clock.h"
#include "backend/triton/triton_error.h"

namespace inflight::triton {

void RelayInstance::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) relay(requests[i]);
}

void RelayInstance::relay(TRITONBACKEND_Request* request) {
  const uint64_t start_ns = now_ns();
  std::unique_ptr<LiveRequest> live;
  ResponsePtr unfilled;
  bool is_heartbeat = false;
  TRITONSERVER_Error* error = guarded([&] {
    live = std::make_unique<LiveRequest>(request, start_ns);
    const std::vector<HostTensor> tensors = inputs_of(request);
    int64_t public_id = 0;
    for (const HostTensor& tensor : tensors) {
      is_heartbeat = is_heartbeat || tensor.name == "heartbeat";
      if (tensor.name == "heartbeat" || tensor.name == "response_state") public_id = tensor.first();
    }
    if (public_id != 0 && live->is_cancelled())
      departures_.client_left(static_cast<uint64_t>(public_id));
    if (!is_heartbeat)
      send_tensors(live->factory, tensors, outputs_of(request),
                   TRITONSERVER_RESPONSE_COMPLETE_FINAL, unfilled);
  });
  const bool success = error == nullptr;
  if (live == nullptr) {
    log_if_error(error, "ResponseFactoryNew");
  } else {
    if (!success)
      send_error(live->factory, error, /*is_final=*/true, std::move(unfilled));
    else if (is_heartbeat)
      log_if_error(TRITONBACKEND_ResponseFactorySendFlags(live->factory,
                                                          TRITONSERVER_RESPONSE_COMPLETE_FINAL),
                   "ResponseFactorySendFlags");
    live->delete_factory();
  }
  const uint64_t end_ns = now_ns();
  log_if_error(TRITONBACKEND_ModelInstanceReportStatistics(instance_, request, success, start_ns,
                                                           start_ns, end_ns, end_ns),
               "ModelInstanceReportStatistics");
  log_if_error(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL),
               "RequestRelease");
}

}  // namespace inflight::triton
