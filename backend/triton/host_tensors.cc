#include "backend/triton/host_tensors.h"

#include <cstring>

#include "backend/triton/input_buffers.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

/// Appends the values to a response that is under construction.
void add_output(TRITONBACKEND_Response* response, const HostTensor& tensor) {
  TRITONBACKEND_Output* output = nullptr;
  check_triton(
      TRITONBACKEND_ResponseOutput(response, &output, tensor.name.c_str(), tensor.type,
                                   tensor.shape.data(), static_cast<uint32_t>(tensor.shape.size())),
      "ResponseOutput");
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  check_triton(
      TRITONBACKEND_OutputBuffer(output, &buffer, tensor.bytes.size(), &memory, &memory_id),
      "OutputBuffer");
  if (tensor.bytes.empty()) return;
  check_internal(memory != TRITONSERVER_MEMORY_GPU, "output ", tensor.name,
                 " was given GPU memory");
  std::memcpy(buffer, tensor.bytes.data(), tensor.bytes.size());
}

}  // namespace

int64_t HostTensor::first() const {
  const bool is_short = type == TRITONSERVER_TYPE_INT32;
  const size_t size = is_short ? sizeof(int32_t) : sizeof(int64_t);
  check(bytes.size() >= size, "tensor ", name, " has ", bytes.size(), " bytes, expected at least ",
        size);
  int32_t narrow = 0;
  int64_t wide = 0;
  std::memcpy(is_short ? static_cast<void*>(&narrow) : &wide, bytes.data(), size);
  return is_short ? narrow : wide;
}

std::vector<std::string> HostTensor::texts() const {
  std::vector<std::string> texts;
  uint32_t length = 0;
  for (size_t at = 0; at < bytes.size(); at += length) {
    const size_t left = bytes.size() - at;
    if (left >= sizeof(length)) std::memcpy(&length, bytes.data() + at, sizeof(length));
    check(left >= sizeof(length) && left - sizeof(length) >= length, "tensor ", name,
          ": a text leads beyond its ", bytes.size(), " bytes");
    at += sizeof(length);
    texts.emplace_back(reinterpret_cast<const char*>(bytes.data()) + at, length);
  }
  return texts;
}

void HostTensor::set_texts(const std::vector<std::string>& texts) {
  bytes.clear();
  for (const std::string& text : texts) {
    const auto length = static_cast<uint32_t>(text.size());
    const auto* begin = reinterpret_cast<const uint8_t*>(&length);
    bytes.insert(bytes.end(), begin, begin + sizeof(length));
    bytes.insert(bytes.end(), text.begin(), text.end());
  }
}

std::vector<HostTensor> inputs_of(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestInputCount(request, &count), "RequestInputCount");
  std::vector<HostTensor> tensors(count);
  for (uint32_t i = 0; i < count; ++i) {
    HostTensor& tensor = tensors[i];
    TRITONBACKEND_Input* input = nullptr;
    const char* name = nullptr;
    const int64_t* shape = nullptr;
    uint32_t num_dims = 0, num_buffers = 0;
    uint64_t num_bytes = 0;
    check_triton(TRITONBACKEND_RequestInputByIndex(request, i, &input), "RequestInputByIndex");
    check_triton(TRITONBACKEND_InputProperties(input, &name, &tensor.type, &shape, &num_dims,
                                               &num_bytes, &num_buffers),
                 "InputProperties");
    tensor.name = name;
    tensor.shape.assign(shape, shape + num_dims);
    tensor.bytes.reserve(num_bytes);
    for_each_buffer(input, num_buffers, name, [&](const uint8_t* data, size_t size) {
      tensor.bytes.insert(tensor.bytes.end(), data, data + size);
    });
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

void send_tensors(TRITONBACKEND_ResponseFactory* factory, const std::vector<HostTensor>& tensors,
                  const std::set<std::string>& wanted, uint32_t flags, ResponsePtr& unfilled) {
  TRITONBACKEND_Response* response = nullptr;
  check_triton(TRITONBACKEND_ResponseNewFromFactory(&response, factory), "ResponseNewFromFactory");
  unfilled.reset(response);
  for (const HostTensor& tensor : tensors)
    if (wanted.contains(tensor.name)) add_output(response, tensor);
  log_if_error(TRITONBACKEND_ResponseSend(unfilled.release(), flags, nullptr), "ResponseSend");
}

}  // namespace inflight::triton
