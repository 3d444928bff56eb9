#include "backend/triton/response_builder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/convert.h"

namespace inflight::triton {

void DeleteResponse::operator()(TRITONBACKEND_Response* response) const {
  log_if_error(TRITONBACKEND_ResponseDelete(response), "ResponseDelete");
}

ResponseBuilder::ResponseBuilder(TRITONBACKEND_ResponseFactory* factory,
                                 const std::vector<std::string>& outputs, ResponsePtr& unfilled)
    : outputs_(outputs), unfilled_(unfilled) {
  TRITONBACKEND_Response* response = nullptr;
  check_triton(TRITONBACKEND_ResponseNewFromFactory(&response, factory), "ResponseNewFromFactory");
  response_.reset(response);
}

ResponseBuilder::~ResponseBuilder() {
  if (response_ != nullptr) unfilled_ = std::move(response_);
}

bool ResponseBuilder::wants(std::string_view name) const {
  return std::ranges::find(outputs_, name) != outputs_.end();
}

void ResponseBuilder::add_fp16(const char* name, std::initializer_list<int64_t> shape,
                               const std::vector<float>& values) {
  if (!wants(name)) return;
  std::vector<cpu::Float16> halves(values.size());
  std::ranges::transform(values, halves.begin(), cpu::from_float<cpu::Float16>);
  write(name, TRITONSERVER_TYPE_FP16, shape, halves.data(), halves.size() * sizeof(cpu::Float16));
}

void ResponseBuilder::add_text(const char* name, std::string_view text) {
  if (!wants(name)) return;
  const auto length = static_cast<uint32_t>(text.size());
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  bytes += text;
  write(name, TRITONSERVER_TYPE_BYTES, {1, 1}, bytes.data(), bytes.size());
}

void ResponseBuilder::write(const char* name, TRITONSERVER_DataType type,
                            std::initializer_list<int64_t> shape, const void* data,
                            size_t num_bytes) {
  TRITONBACKEND_Output* output = nullptr;
  check_triton(TRITONBACKEND_ResponseOutput(response_.get(), &output, name, type, shape.begin(),
                                            static_cast<uint32_t>(shape.size())),
               "ResponseOutput");
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  check_triton(TRITONBACKEND_OutputBuffer(output, &buffer, num_bytes, &memory, &memory_id),
               "OutputBuffer");
  if (num_bytes == 0) return;
  check_internal(memory != TRITONSERVER_MEMORY_GPU, "output ", name, " was given GPU memory");
  std::memcpy(buffer, data, num_bytes);
}

}  // namespace inflight::triton
