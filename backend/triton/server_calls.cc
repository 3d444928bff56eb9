#include "backend/triton/server_calls.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "backend/triton/triton_error.h"

namespace inflight::triton {

namespace {

using CallPtr = std::shared_ptr<ServerCall>;

TRITONSERVER_Error* allocate(TRITONSERVER_ResponseAllocator*, const char*, size_t num_bytes,
                             TRITONSERVER_MemoryType, int64_t, void*, void** buffer,
                             void** buffer_userp, TRITONSERVER_MemoryType* memory,
                             int64_t* memory_id) {
  *buffer = num_bytes == 0 ? nullptr : std::malloc(num_bytes);
  *buffer_userp = nullptr;
  *memory = TRITONSERVER_MEMORY_CPU;
  *memory_id = 0;
  if (num_bytes == 0 || *buffer != nullptr) return nullptr;
  const std::string message = concat("no memory for an output of ", num_bytes, " bytes");
  return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, message.c_str());
}

TRITONSERVER_Error* release(TRITONSERVER_ResponseAllocator*, void* buffer, void*, size_t,
                            TRITONSERVER_MemoryType, int64_t) {
  std::free(buffer);
  return nullptr;
}

std::vector<HostTensor> outputs_of(TRITONSERVER_InferenceResponse* response) {
  uint32_t count = 0;
  check_triton(TRITONSERVER_InferenceResponseOutputCount(response, &count), "ResponseOutputCount");
  std::vector<HostTensor> tensors(count);
  for (uint32_t i = 0; i < count; ++i) {
    HostTensor& tensor = tensors[i];
    const char* name = nullptr;
    const int64_t* shape = nullptr;
    const void* data = nullptr;
    uint64_t num_dims = 0;
    size_t num_bytes = 0;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    void* userp = nullptr;
    check_triton(
        TRITONSERVER_InferenceResponseOutput(response, i, &name, &tensor.type, &shape, &num_dims,
                                             &data, &num_bytes, &memory, &memory_id, &userp),
        "ResponseOutput");
    tensor.name = name;
    tensor.shape.assign(shape, shape + num_dims);
    const auto* bytes = static_cast<const uint8_t*>(data);
    if (num_bytes > 0) tensor.bytes.assign(bytes, bytes + num_bytes);
  }
  return tensors;
}

void describe(TRITONSERVER_InferenceRequest* request, const CallRequest& given) {
  check_triton(TRITONSERVER_InferenceRequestSetId(request, given.id.c_str()), "RequestSetId");
  for (const auto& [name, value] : given.parameters) {
    const char* key = name.c_str();
    if (const auto* text = std::get_if<std::string>(&value))
      check_triton(TRITONSERVER_InferenceRequestSetStringParameter(request, key, text->c_str()),
                   key);
    else if (const auto* number = std::get_if<int64_t>(&value))
      check_triton(TRITONSERVER_InferenceRequestSetIntParameter(request, key, *number), key);
    else
      check_triton(
          TRITONSERVER_InferenceRequestSetBoolParameter(request, key, std::get<bool>(value)), key);
  }
  static constexpr uint8_t kNothing = 0;  // an address for tensors of no bytes
  for (const HostTensor& tensor : given.inputs) {
    const char* name = tensor.name.c_str();
    check_triton(TRITONSERVER_InferenceRequestAddInput(request, name, tensor.type,
                                                       tensor.shape.data(), tensor.shape.size()),
                 name);
    check_triton(TRITONSERVER_InferenceRequestAppendInputData(
                     request, name, tensor.bytes.empty() ? &kNothing : tensor.bytes.data(),
                     tensor.bytes.size(), TRITONSERVER_MEMORY_CPU, /*memory_type_id=*/0),
                 name);
  }
  for (const std::string& output : given.outputs)
    check_triton(TRITONSERVER_InferenceRequestAddRequestedOutput(request, output.c_str()),
                 output.c_str());
}

}  // namespace

std::vector<RequestParameter> parameters_of(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestParameterCount(request, &count), "RequestParameterCount");
  std::vector<RequestParameter> parameters;
  for (uint32_t i = 0; i < count; ++i) {
    const char* key = nullptr;
    TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
    const void* value = nullptr;
    check_triton(TRITONBACKEND_RequestParameter(request, i, &key, &type, &value),
                 "RequestParameter");
    if (type == TRITONSERVER_PARAMETER_STRING)
      parameters.push_back({key, std::string(static_cast<const char*>(value))});
    else if (type == TRITONSERVER_PARAMETER_INT)
      parameters.push_back({key, *static_cast<const int64_t*>(value)});
    else if (type == TRITONSERVER_PARAMETER_BOOL)
      parameters.push_back({key, *static_cast<const bool*>(value)});
  }
  return parameters;
}

void ServerCall::cancel() {
  std::lock_guard lock(mutex_);
  if (request_ != nullptr)
    log_if_error(TRITONSERVER_InferenceRequestCancel(request_), "InferenceRequestCancel");
}

void ServerCall::released(TRITONSERVER_InferenceRequest* request, uint32_t, void* userp) {
  const std::unique_ptr<CallPtr> held(static_cast<CallPtr*>(userp));
  {
    std::lock_guard lock((*held)->mutex_);
    (*held)->request_ = nullptr;
  }
  log_if_error(TRITONSERVER_InferenceRequestDelete(request), "InferenceRequestDelete");
}

void ServerCall::responded(TRITONSERVER_InferenceResponse* response, uint32_t flags, void* userp) {
  auto* held = static_cast<CallPtr*>(userp);
  CallResponse told;
  told.is_final = (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
  if (response != nullptr) {
    try {
      if (TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(response))
        told.error = to_error(error);
      else
        told.tensors = outputs_of(response);
    } catch (const std::exception& failure) {
      told.error = Error(ErrorCode::kInternal, failure.what());
    }
    log_if_error(TRITONSERVER_InferenceResponseDelete(response), "InferenceResponseDelete");
  }
  if (!told.is_final) {
    (*held)->on_response_(std::move(told));
    return;
  }
  const OnResponse last = std::exchange((*held)->on_response_, nullptr);  // and what it holds
  delete held;
  last(std::move(told));
}

ServerCalls::ServerCalls(TRITONSERVER_Server* server) : server_(server) {
  check_triton(TRITONSERVER_ResponseAllocatorNew(&allocator_, allocate, release, /*start=*/nullptr),
               "ResponseAllocatorNew");
}

ServerCalls::~ServerCalls() {
  log_if_error(TRITONSERVER_ResponseAllocatorDelete(allocator_), "ResponseAllocatorDelete");
}

CallPtr ServerCalls::send(CallRequest given, ServerCall::OnResponse on_response) const {
  auto call = std::make_shared<ServerCall>(std::move(given), std::move(on_response));
  TRITONSERVER_InferenceRequest* request = nullptr;
  const auto take = [](TRITONSERVER_Error* error) {
    if (error == nullptr) return;
    const Error failure = to_error(error);
    TRITONSERVER_ErrorDelete(error);
    throw failure;
  };
  take(TRITONSERVER_InferenceRequestNew(&request, server_, call->given_.model.c_str(),
                                        /*model_version=*/-1));
  auto for_release = std::make_unique<CallPtr>(call),
       for_responses = std::make_unique<CallPtr>(call);
  try {
    describe(request, call->given_);
    check_triton(TRITONSERVER_InferenceRequestSetReleaseCallback(request, ServerCall::released,
                                                                 for_release.get()),
                 "RequestSetReleaseCallback");
    check_triton(TRITONSERVER_InferenceRequestSetResponseCallback(
                     request, allocator_, /*allocator_userp=*/nullptr, ServerCall::responded,
                     for_responses.get()),
                 "RequestSetResponseCallback");
    call->request_ = request;
    take(TRITONSERVER_ServerInferAsync(server_, request, /*trace=*/nullptr));
  } catch (...) {
    call->request_ = nullptr;
    log_if_error(TRITONSERVER_InferenceRequestDelete(request), "InferenceRequestDelete");
    throw;
  }
  for_release.release();  // the callbacks'
  for_responses.release();
  return call;
}

void ServerCalls::ask(CallRequest given, ServerCall::OnResponse on_answer) const {
  send(std::move(given),
       [whole = CallResponse{}, on_answer = std::move(on_answer)](CallResponse&& part) mutable {
         std::ranges::move(part.tensors, std::back_inserter(whole.tensors));
         if (part.error) whole.error = std::move(part.error);
         whole.is_final = part.is_final;
         if (whole.is_final) on_answer(std::move(whole));
       });
}

}  // namespace inflight::triton
