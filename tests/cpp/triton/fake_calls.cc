#include "tests/cpp/triton/fake_calls.h"

using inflight::testing::FakeCall;
using inflight::testing::FakeCallPtr;
using inflight::testing::FakeTensor;

struct TRITONSERVER_ResponseAllocator {
  TRITONSERVER_ResponseAllocatorAllocFn_t alloc;
  TRITONSERVER_ResponseAllocatorReleaseFn_t release;
};

struct TRITONSERVER_InferenceRequest {
  FakeCallPtr call;
  TRITONSERVER_InferenceRequestReleaseFn_t release = nullptr;
  void* release_userp = nullptr;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  TRITONSERVER_InferenceResponseCompleteFn_t complete = nullptr;
  void* complete_userp = nullptr;
  std::vector<std::pair<const uint8_t*, size_t>> data;  // read when it is sent
};

struct TRITONSERVER_InferenceResponse {
  TRITONSERVER_ResponseAllocator* allocator;
  std::vector<FakeTensor> tensors;
  std::vector<void*> buffers;  // of the allocator, each with its tensor's bytes
  TRITONSERVER_Error* error = nullptr;
};

namespace {

std::mutex calls_mutex;
std::map<std::string, std::function<void(FakeCallPtr)>> models;
std::map<FakeCall*, TRITONSERVER_InferenceRequest*> running;
std::atomic<int> num_objects{0};

void respond(FakeCall* call, std::vector<FakeTensor> tensors, TRITONSERVER_Error* error,
             bool has_response, bool is_final) {
  TRITONSERVER_InferenceRequest* request = nullptr;
  {
    std::lock_guard lock(calls_mutex);
    request = running.at(call);
    if (is_final) running.erase(call);
  }
  TRITONSERVER_InferenceResponse* response = nullptr;
  if (has_response) {
    ++num_objects;
    response =
        new TRITONSERVER_InferenceResponse{request->allocator, std::move(tensors), {}, error};
    for (const FakeTensor& tensor : response->tensors) {
      void *buffer = nullptr, *userp = nullptr;
      TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_GPU;
      int64_t memory_id = 0;
      request->allocator->alloc(request->allocator, tensor.name.c_str(), tensor.bytes.size(),
                                TRITONSERVER_MEMORY_GPU, 0, nullptr, &buffer, &userp, &memory,
                                &memory_id);
      if (memory != TRITONSERVER_MEMORY_CPU) std::abort();
      if (!tensor.bytes.empty()) std::memcpy(buffer, tensor.bytes.data(), tensor.bytes.size());
      response->buffers.push_back(buffer);
    }
  }
  const auto complete = request->complete;
  void* userp = request->complete_userp;
  // As some servers do: the request goes before its last response comes.
  if (is_final) request->release(request, TRITONSERVER_REQUEST_RELEASE_ALL, request->release_userp);
  complete(response, is_final ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0, userp);
}

}  // namespace

namespace inflight::testing {

void FakeCall::respond(std::vector<FakeTensor> tensors, bool is_final) {
  ::respond(this, std::move(tensors), nullptr, /*has_response=*/true, is_final);
}
void FakeCall::fail(TRITONSERVER_Error_Code code, const std::string& message, bool is_final) {
  ::respond(this, {}, TRITONSERVER_ErrorNew(code, message.c_str()), /*has_response=*/true,
            is_final);
}
void FakeCall::end() { ::respond(this, {}, nullptr, /*has_response=*/false, /*is_final=*/true); }

void fake_model(const std::string& name, std::function<void(FakeCallPtr)> does) {
  std::lock_guard lock(calls_mutex);
  models[name] = std::move(does);
}
void fake_no_models() {
  std::lock_guard lock(calls_mutex);
  models.clear();
}

int fake_call_objects() { return num_objects; }

}  // namespace inflight::testing

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(
    TRITONSERVER_ResponseAllocator** allocator, TRITONSERVER_ResponseAllocatorAllocFn_t alloc,
    TRITONSERVER_ResponseAllocatorReleaseFn_t release, TRITONSERVER_ResponseAllocatorStartFn_t) {
  ++num_objects;
  *allocator = new TRITONSERVER_ResponseAllocator{alloc, release};
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorDelete(
    TRITONSERVER_ResponseAllocator* allocator) {
  --num_objects;
  delete allocator;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(TRITONSERVER_InferenceRequest** request,
                                                     TRITONSERVER_Server*, const char* model,
                                                     const int64_t) {
  {
    std::lock_guard lock(calls_mutex);
    if (!models.contains(model))
      return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_NOT_FOUND, "unknown model");
  }
  ++num_objects;
  *request = new TRITONSERVER_InferenceRequest{.call = std::make_shared<FakeCall>()};
  (*request)->call->model = model;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest* request) {
  --num_objects;
  delete request;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(TRITONSERVER_InferenceRequest* request,
                                                       const char* id) {
  request->call->id = id;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetStringParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const char* value) {
  request->call->parameters[key] = value;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetIntParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const int64_t value) {
  request->call->parameters[key] = std::to_string(value);
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetBoolParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const bool value) {
  request->call->parameters[key] = value ? "true" : "false";
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(TRITONSERVER_InferenceRequest* request,
                                                          const char* name,
                                                          const TRITONSERVER_DataType type,
                                                          const int64_t* shape, uint64_t num_dims) {
  request->call->inputs.push_back({name, type, {shape, shape + num_dims}, {}});
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(
    TRITONSERVER_InferenceRequest* request, const char* name, const void* base, size_t num_bytes,
    TRITONSERVER_MemoryType, int64_t) {
  if (request->call->inputs.back().name != name || base == nullptr) std::abort();
  request->data.emplace_back(static_cast<const uint8_t*>(base), num_bytes);
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRequestedOutput(
    TRITONSERVER_InferenceRequest* request, const char* name) {
  request->call->outputs.emplace_back(name);
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(
    TRITONSERVER_InferenceRequest* request, TRITONSERVER_InferenceRequestReleaseFn_t release,
    void* userp) {
  request->release = release;
  request->release_userp = userp;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest* request, TRITONSERVER_ResponseAllocator* allocator, void*,
    TRITONSERVER_InferenceResponseCompleteFn_t complete, void* userp) {
  request->allocator = allocator;
  request->complete = complete;
  request->complete_userp = userp;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest* request) {
  request->call->cancelled = true;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(TRITONSERVER_Server*,
                                                  TRITONSERVER_InferenceRequest* request,
                                                  TRITONSERVER_InferenceTrace*) {
  std::function<void(FakeCallPtr)> does;
  for (size_t i = 0; i < request->data.size(); ++i) {
    const auto& [data, size] = request->data[i];
    request->call->inputs[i].bytes.assign(data, data + size);
  }
  const FakeCallPtr call = request->call;
  {
    std::lock_guard lock(calls_mutex);
    does = models.at(call->model);
    if (!does) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "not ready");
    running[call.get()] = request;
  }
  does(call);
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse* response) {
  return response->error;
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(
    TRITONSERVER_InferenceResponse* response, uint32_t* count) {
  *count = static_cast<uint32_t>(response->tensors.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(
    TRITONSERVER_InferenceResponse* response, const uint32_t index, const char** name,
    TRITONSERVER_DataType* type, const int64_t** shape, uint64_t* num_dims, const void** base,
    size_t* num_bytes, TRITONSERVER_MemoryType* memory, int64_t*, void**) {
  const FakeTensor& tensor = response->tensors.at(index);
  *name = tensor.name.c_str();
  *type = tensor.type;
  *shape = tensor.shape.data();
  *num_dims = tensor.shape.size();
  *base = response->buffers[index];
  *num_bytes = tensor.bytes.size();
  *memory = TRITONSERVER_MEMORY_CPU;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse* response) {
  for (size_t i = 0; i < response->buffers.size(); ++i)
    response->allocator->release(response->allocator, response->buffers[i], nullptr,
                                 response->tensors[i].bytes.size(), TRITONSERVER_MEMORY_CPU, 0);
  if (response->error != nullptr) TRITONSERVER_ErrorDelete(response->error);
  --num_objects;
  delete response;
  return nullptr;
}
}
