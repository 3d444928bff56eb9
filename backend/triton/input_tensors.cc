#include "backend/triton/input_tensors.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "backend/triton/input_buffers.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/cpu/convert.h"

namespace inflight::triton {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

InputTensor fetch(TRITONBACKEND_Input* input) {
  const char* name = nullptr;
  const int64_t* shape = nullptr;
  uint32_t num_dims = 0, num_buffers = 0;
  uint64_t num_bytes = 0;
  InputTensor tensor;
  check_triton(TRITONBACKEND_InputProperties(input, &name, &tensor.type, &shape, &num_dims,
                                             &num_bytes, &num_buffers),
               "InputProperties");
  tensor.spec = find_input(name);
  check(tensor.spec != nullptr, "unknown input tensor ", name);
  tensor.shape.assign(shape, shape + num_dims);
  tensor.bytes.reserve(num_bytes);
  for_each_buffer(input, num_buffers, name, [&](const uint8_t* data, size_t size) {
    tensor.bytes.insert(tensor.bytes.end(), data, data + size);
  });
  int64_t num_elements = 1;
  for (int64_t dim : tensor.shape) num_elements *= dim;
  const size_t size = element_size(tensor.type);
  check(size == 0 || tensor.bytes.size() == size * static_cast<size_t>(num_elements),
        "Invalid size for tensor ", name, ": ", tensor.bytes.size(), " bytes for shape ",
        shape_text(tensor.shape));
  return tensor;
}

/// Every string of a BYTES tensor is empty: pairs of a 4-byte length and the characters.
bool holds_only_empty_strings(const std::vector<uint8_t>& bytes) {
  return std::ranges::all_of(bytes, [](uint8_t byte) { return byte == 0; });
}

template <typename T>
bool all_equal(const InputTensor& tensor, double value) {
  for (size_t at = 0; at + sizeof(T) <= tensor.bytes.size(); at += sizeof(T)) {
    T element;
    std::memcpy(&element, tensor.bytes.data() + at, sizeof(T));
    if (static_cast<double>(element) != value) return false;
  }
  return true;
}

bool holds_default(const InputTensor& tensor) {
  if (tensor.bytes.empty()) return true;
  if (tensor.type == TRITONSERVER_TYPE_BYTES) return holds_only_empty_strings(tensor.bytes);
  const double value = tensor.spec->default_value;
  if (std::isnan(value)) return false;
  switch (tensor.type) {
    case TRITONSERVER_TYPE_BOOL:
    case TRITONSERVER_TYPE_UINT8:
      return all_equal<uint8_t>(tensor, value);
    case TRITONSERVER_TYPE_INT32:
      return all_equal<int32_t>(tensor, value);
    case TRITONSERVER_TYPE_UINT32:  // counts of early releases
      return all_equal<uint32_t>(tensor, value);
    case TRITONSERVER_TYPE_INT64:
      return all_equal<int64_t>(tensor, value);
    case TRITONSERVER_TYPE_UINT64:
      return all_equal<uint64_t>(tensor, value);
    case TRITONSERVER_TYPE_FP32:
      return all_equal<float>(tensor, value);
    default:
      return false;
  }
}

template <typename T>
std::vector<float> widened(const std::vector<uint16_t>& halves) {
  std::vector<float> floats(halves.size());
  std::ranges::transform(halves, floats.begin(),
                         [](uint16_t bits) { return cpu::to_float(T{bits}); });
  return floats;
}

}  // namespace

size_t element_size(TRITONSERVER_DataType type) {
  switch (type) {
    case TRITONSERVER_TYPE_BOOL:
    case TRITONSERVER_TYPE_UINT8:
    case TRITONSERVER_TYPE_INT8:
      return 1;
    case TRITONSERVER_TYPE_UINT16:
    case TRITONSERVER_TYPE_INT16:
    case TRITONSERVER_TYPE_FP16:
    case TRITONSERVER_TYPE_BF16:
      return 2;
    case TRITONSERVER_TYPE_UINT32:
    case TRITONSERVER_TYPE_INT32:
    case TRITONSERVER_TYPE_FP32:
      return 4;
    case TRITONSERVER_TYPE_UINT64:
    case TRITONSERVER_TYPE_INT64:
    case TRITONSERVER_TYPE_FP64:
      return 8;
    case TRITONSERVER_TYPE_BYTES:
    case TRITONSERVER_TYPE_INVALID:
      break;
  }
  return 0;
}

InputTensors::InputTensors(TRITONBACKEND_Request* request, bool has_batch_dim) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestInputCount(request, &count), "RequestInputCount");
  tensors_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    TRITONBACKEND_Input* input = nullptr;
    check_triton(TRITONBACKEND_RequestInputByIndex(request, i, &input), "RequestInputByIndex");
    tensors_.push_back(fetch(input));
  }
  if (!has_batch_dim) return;
  for (const InputTensor& tensor : tensors_) {
    check(!tensor.shape.empty() && tensor.shape[0] > 0, "tensor ", tensor.spec->name, " has shape ",
          shape_text(tensor.shape), ", expected at least one row");
    check(&tensor == tensors_.data() || tensor.shape[0] == num_rows_, "tensor ", tensor.spec->name,
          " has ", tensor.shape[0], " rows but ", tensors_[0].spec->name, " has ", num_rows_);
    num_rows_ = tensor.shape[0];
  }
}

const InputTensor* InputTensors::find(std::string_view name) const {
  for (const InputTensor& tensor : tensors_)
    if (tensor.spec->name == name) return tensor.bytes.empty() ? nullptr : &tensor;
  return nullptr;
}

std::vector<float> Inputs::floats(std::string_view name) const {
  const InputTensor* tensor = tensors_.find(name);
  if (tensor == nullptr) return {};
  switch (tensor->type) {
    case TRITONSERVER_TYPE_FP16:
      return widened<cpu::Float16>(values<uint16_t>(name));
    case TRITONSERVER_TYPE_BF16:
      return widened<cpu::BFloat16>(values<uint16_t>(name));
    default:
      return values<float>(name);
  }
}

std::optional<std::string> Inputs::text(std::string_view name) const {
  const InputTensor* tensor = tensors_.find(name);
  if (tensor == nullptr) return std::nullopt;
  check(tensor->type == TRITONSERVER_TYPE_BYTES, "tensor ", name, " does not hold strings");
  // Each is 4 bytes of length and the characters.
  std::span<const uint8_t> left = tensor->bytes;
  std::string text;
  int64_t count = 0;
  for (; !left.empty(); ++count) {
    uint32_t length = 0;
    check(left.size() >= sizeof(length), "tensor ", name, " ends within a length");
    std::memcpy(&length, left.data(), sizeof(length));
    left = left.subspan(sizeof(length));
    check(length <= left.size(), "tensor ", name, " has a string of ", length, " bytes, ",
          left.size(), " are left");
    if (count == row_) text.assign(left.begin(), left.begin() + length);
    left = left.subspan(length);
  }
  check(count == num_rows(), "Invalid size for tensor ", name, ": it has ", count,
        " strings, expected ", num_rows());
  return text;
}

void refuse_unsupported(const InputTensors& tensors) {
  for (const InputTensor& tensor : tensors.all()) {
    if (tensor.spec->support != TensorSupport::kRefused || holds_default(tensor)) continue;
    const double value = tensor.spec->default_value;
    throw Error(
        ErrorCode::kUnsupported,
        concat("input tensor ", tensor.spec->name, " is not supported yet; ",
               std::isnan(value) ? "leave it out" : concat("leave it out or give it ", value)));
  }
}

}  // namespace inflight::triton
