// Calls of other models of the same server: tensors in, responses out, on whichever thread the
// server answers. Knows no model.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "backend/triton/host_tensors.h"
#include "backend/triton/triton_c_api.h"
#include "kernels/core/error.h"

namespace inflight::triton {

/// Of a request: a name, and what was given.
struct RequestParameter {
  std::string name;
  std::variant<std::string, int64_t, bool> value;
};

std::vector<RequestParameter> parameters_of(TRITONBACKEND_Request* request);

struct CallResponse {
  std::vector<HostTensor> tensors;  // none of an error
  std::optional<Error> error;
  bool is_final = false;  // no other comes
};

/// What is asked of whom.
struct CallRequest {
  std::string model;
  std::string id;
  std::vector<RequestParameter> parameters;
  std::vector<HostTensor> inputs;
  std::vector<std::string> outputs;
};

/// One call on its way.
class ServerCall {
 public:
  /// Any thread, never two at once; must not raise.
  using OnResponse = std::function<void(CallResponse&&)>;

  ServerCall(CallRequest request, OnResponse on_response)
      : given_(std::move(request)), on_response_(std::move(on_response)) {}
  ServerCall(const ServerCall&) = delete;
  ServerCall& operator=(const ServerCall&) = delete;

  /// Tells the model that nobody waits; its final response still comes. Any thread.
  void cancel();

 private:
  friend class ServerCalls;
  static void released(TRITONSERVER_InferenceRequest* request, uint32_t flags, void* userp);
  static void responded(TRITONSERVER_InferenceResponse* response, uint32_t flags, void* userp);

  CallRequest given_;  // the server reads the inputs until it releases the request
  OnResponse on_response_;
  std::mutex mutex_;                                  // guards request_
  TRITONSERVER_InferenceRequest* request_ = nullptr;  // until released
};

/// Makes them. Outlives its calls.
class ServerCalls {
 public:
  explicit ServerCalls(TRITONSERVER_Server* server);
  ~ServerCalls();
  ServerCalls(const ServerCalls&) = delete;
  ServerCalls& operator=(const ServerCalls&) = delete;

  /// Raises Error if the server does not take it; `on_response` is not called then. It may be
  /// called before this returns.
  std::shared_ptr<ServerCall> send(CallRequest request, ServerCall::OnResponse on_response) const;
  /// The same of a model that answers once: `on_answer` gets all that it sends, as one.
  void ask(CallRequest request, ServerCall::OnResponse on_answer) const;

 private:
  TRITONSERVER_Server* server_;
  TRITONSERVER_ResponseAllocator* allocator_ = nullptr;
};

}  // namespace inflight::triton
