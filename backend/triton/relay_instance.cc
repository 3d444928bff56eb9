#include "backend/triton/relay_instance.h"

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "backend/triton/input_buffers.h"
#include "backend/triton/live_request.h"
#include "backend/triton/response_writer.h"
#include "backend/triton/steady_clock.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

struct Tensor {
  const char* name = nullptr;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  const int64_t* shape = nullptr;
  uint32_t num_dims = 0, num_buffers = 0;
  uint64_t num_bytes = 0;
  TRITONBACKEND_Input* input = nullptr;

  void copy_to(void* target) const {
    auto* out = static_cast<uint8_t*>(target);
    for_each_buffer(input, num_buffers, name, [&](const uint8_t* data, size_t size) {
      std::memcpy(out, data, size);
      out += size;
    });
  }

  int64_t first() const {
    check(num_bytes >= sizeof(int64_t), "tensor ", name, " has ", num_bytes, " bytes");
    std::vector<int64_t> values((num_bytes + sizeof(int64_t) - 1) / sizeof(int64_t));
    copy_to(values.data());
    return values[0];
  }
};

std::vector<Tensor> inputs_of(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestInputCount(request, &count), "RequestInputCount");
  std::vector<Tensor> tensors(count);
  for (uint32_t i = 0; i < count; ++i) {
    Tensor& tensor = tensors[i];
    check_triton(TRITONBACKEND_RequestInputByIndex(request, i, &tensor.input),
                 "RequestInputByIndex");
    check_triton(
        TRITONBACKEND_InputProperties(tensor.input, &tensor.name, &tensor.type, &tensor.shape,
                                      &tensor.num_dims, &tensor.num_bytes, &tensor.num_buffers),
        "InputProperties");
  }
  return tensors;
}

std::set<std::string> outputs_of(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestOutputCount(request, &count), "RequestOutputCount");
  std::set<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    check_triton(TRITONBACKEND_RequestOutputName(request, i, &name), "RequestOutputName");
    names.insert(name);
  }
  return names;
}

void hand_on(TRITONBACKEND_ResponseFactory* factory, const std::vector<Tensor>& tensors,
             const std::set<std::string>& wanted) {
  TRITONBACKEND_Response* response = nullptr;
  check_triton(TRITONBACKEND_ResponseNewFromFactory(&response, factory), "ResponseNewFromFactory");
  try {
    for (const Tensor& tensor : tensors) {
      if (!wanted.contains(tensor.name)) continue;
      TRITONBACKEND_Output* output = nullptr;
      check_triton(TRITONBACKEND_ResponseOutput(response, &output, tensor.name, tensor.type,
                                                tensor.shape, tensor.num_dims),
                   "ResponseOutput");
      void* buffer = nullptr;
      TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
      int64_t memory_id = 0;
      check_triton(
          TRITONBACKEND_OutputBuffer(output, &buffer, tensor.num_bytes, &memory, &memory_id),
          "OutputBuffer");
      if (tensor.num_bytes == 0) continue;
      check_internal(memory != TRITONSERVER_MEMORY_GPU, "output ", tensor.name,
                     " was given GPU memory");
      tensor.copy_to(buffer);
    }
  } catch (...) {
    log_if_error(TRITONBACKEND_ResponseDelete(response), "ResponseDelete");
    throw;
  }
  log_if_error(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, nullptr),
               "ResponseSend");
}

}  // namespace

void RelayInstance::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) relay(requests[i]);
}

void RelayInstance::relay(TRITONBACKEND_Request* request) {
  const uint64_t start_ns = now_ns();
  std::unique_ptr<LiveRequest> live;
  bool is_heartbeat = false;
  TRITONSERVER_Error* error = guarded([&] {
    live = std::make_unique<LiveRequest>(request, start_ns);
    const std::vector<Tensor> tensors = inputs_of(request);
    int64_t public_id = 0;
    for (const Tensor& tensor : tensors) {
      const std::string_view name = tensor.name;
      is_heartbeat = is_heartbeat || name == "heartbeat";
      if (name == "heartbeat" || name == "response_state") public_id = tensor.first();
    }
    if (public_id != 0 && live->is_cancelled())
      departures_.client_left(static_cast<uint64_t>(public_id));
    if (!is_heartbeat) hand_on(live->factory, tensors, outputs_of(request));
  });
  const bool success = error == nullptr;
  if (live == nullptr) {
    log_if_error(error, "ResponseFactoryNew");
  } else {
    if (!success)
      send_error(live->factory, error, /*is_final=*/true);
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
