#include "backend/triton/request_reader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "backend/triton/request_schema.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

struct InputTensor {
  const TensorSpec* spec = nullptr;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<int64_t> shape;  // batch dimension included
  std::vector<uint8_t> bytes;

  int64_t num_elements() const {
    int64_t count = 1;
    for (int64_t dim : shape) count *= dim;
    return count;
  }
};

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

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

/// The tensors of one request, fetched once, found by name.
class Inputs {
 public:
  explicit Inputs(TRITONBACKEND_Request* request) {
    uint32_t count = 0;
    check_triton(TRITONBACKEND_RequestInputCount(request, &count), "RequestInputCount");
    tensors_.reserve(count);
    for (uint32_t i = 0; i < count; ++i) {
      TRITONBACKEND_Input* input = nullptr;
      check_triton(TRITONBACKEND_RequestInputByIndex(request, i, &input), "RequestInputByIndex");
      tensors_.push_back(fetch(input));
    }
  }

  std::span<const InputTensor> all() const { return tensors_; }

  /// Null when absent or of length zero.
  const InputTensor* find(std::string_view name) const {
    for (const InputTensor& tensor : tensors_)
      if (tensor.spec->name == name) return tensor.bytes.empty() ? nullptr : &tensor;
    return nullptr;
  }

  template <typename T>
  std::vector<T> values(std::string_view name) const {
    const InputTensor* tensor = find(name);
    if (tensor == nullptr) return {};
    check(element_size(tensor->type) == sizeof(T), "tensor ", name, " has elements of ",
          element_size(tensor->type), " bytes, expected ", sizeof(T));
    std::vector<T> out(tensor->bytes.size() / sizeof(T));
    std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
    return out;
  }

  template <typename T>
  std::optional<T> scalar(std::string_view name) const {
    std::vector<T> all = values<T>(name);
    if (all.empty()) return std::nullopt;
    check(all.size() == 1, "Invalid size for tensor ", name, ": it has ", all.size(),
          " elements, expected 1");
    return all[0];
  }

  bool flag(std::string_view name, bool otherwise) const {
    return scalar<uint8_t>(name).value_or(otherwise ? 1 : 0) != 0;
  }

  /// Either of two names of one option; both are legal if they agree.
  template <typename T>
  std::optional<T> scalar_of(std::string_view name, std::string_view other) const {
    std::optional<T> first = scalar<T>(name), second = scalar<T>(other);
    check(!first || !second || *first == *second, name, " is ", first ? *first : T(), " but ",
          other, " is ", second ? *second : T(), ": they name the same option");
    return first ? first : second;
  }

 private:
  static InputTensor fetch(TRITONBACKEND_Input* input) {
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
    for (uint32_t i = 0; i < num_buffers; ++i) {
      const void* buffer = nullptr;
      uint64_t buffer_bytes = 0;
      TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
      int64_t memory_id = 0;
      check_triton(TRITONBACKEND_InputBuffer(input, i, &buffer, &buffer_bytes, &memory, &memory_id),
                   "InputBuffer");
      check(memory != TRITONSERVER_MEMORY_GPU, "tensor ", name,
            " lies in GPU memory, expected host memory");
      if (buffer_bytes == 0) continue;
      const auto* begin = static_cast<const uint8_t*>(buffer);
      tensor.bytes.insert(tensor.bytes.end(), begin, begin + buffer_bytes);
    }
    const size_t size = element_size(tensor.type);
    check(size == 0 || tensor.bytes.size() == size * static_cast<size_t>(tensor.num_elements()),
          "Invalid size for tensor ", name, ": ", tensor.bytes.size(), " bytes for shape ",
          shape_text(tensor.shape));
    return tensor;
  }

  std::vector<InputTensor> tensors_;
};

/// Every string of a BYTES tensor is empty: pairs of a 4-byte length and the characters.
bool holds_only_empty_strings(const std::vector<uint8_t>& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
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

void refuse_unsupported(const Inputs& inputs) {
  for (const InputTensor& tensor : inputs.all()) {
    if (tensor.spec->support != TensorSupport::kRefused || holds_default(tensor)) continue;
    throw Error(ErrorCode::kUnsupported,
                concat("input tensor ", tensor.spec->name, " is not supported yet"));
  }
}

decoding::SamplingParams read_sampling(const Inputs& inputs) {
  decoding::SamplingParams sampling;
  const std::optional<int32_t> top_k = inputs.scalar<int32_t>("runtime_top_k");
  std::optional<float> top_p = inputs.scalar<float>("runtime_top_p");
  if (top_p && *top_p <= 0.0f) top_p.reset();  // any value <= 0 means unset
  sampling.temperature = inputs.scalar<float>("temperature").value_or(1.0f);
  sampling.top_k = top_k.value_or(0);
  sampling.top_p = top_p.value_or(1.0f);
  sampling.min_p = inputs.scalar<float>("min_p").value_or(0.0f);
  // A temperature alone does not turn sampling on.
  sampling.greedy = sampling.top_k == 0 && !top_p && sampling.min_p == 0.0f;
  sampling.repetition_penalty = inputs.scalar<float>("repetition_penalty").value_or(1.0f);
  sampling.presence_penalty = inputs.scalar<float>("presence_penalty").value_or(0.0f);
  sampling.frequency_penalty = inputs.scalar<float>("frequency_penalty").value_or(0.0f);
  sampling.seed = inputs.scalar_of<uint64_t>("seed", "random_seed").value_or(0);
  sampling.num_logprobs = inputs.flag("return_log_probs", false) ? 0 : -1;
  return sampling;
}

std::vector<std::vector<int32_t>> read_words(const Inputs& inputs, const std::string& name) {
  const std::vector<int32_t> values = inputs.values<int32_t>(name);
  return parse_word_list(name, values.data(), static_cast<int64_t>(values.size()));
}

decoding::StopParams read_stop(const Inputs& inputs) {
  decoding::StopParams stop;
  const std::optional<int32_t> length = inputs.scalar<int32_t>("request_output_len");
  check(length.has_value(), "request_output_len is not present in the request");
  stop.max_new_tokens = *length;
  stop.min_new_tokens = inputs.scalar_of<int32_t>("min_tokens", "min_length").value_or(0);
  const int32_t end_id = inputs.scalar<int32_t>("end_id").value_or(-1);
  if (end_id != -1) stop.end_ids.push_back(end_id);
  stop.stop_words = read_words(inputs, "stop_words_list");
  stop.bad_words = read_words(inputs, "bad_words_list");
  return stop;
}

std::vector<std::string> requested_outputs(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestOutputCount(request, &count), "RequestOutputCount");
  std::vector<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    check_triton(TRITONBACKEND_RequestOutputName(request, i, &name), "RequestOutputName");
    names.emplace_back(name);
  }
  return names;
}

void check_single_row(const Inputs& inputs) {
  for (const InputTensor& tensor : inputs.all()) {
    if (tensor.shape.empty() || tensor.shape[0] <= 1) continue;
    throw Error(ErrorCode::kUnsupported, concat("a batch of ", tensor.shape[0], " rows (tensor ",
                                                tensor.spec->name, ") is not supported yet"));
  }
}

}  // namespace

std::vector<std::vector<int32_t>> parse_word_list(const std::string& name, const int32_t* values,
                                                  int64_t num_values) {
  check(num_values % 2 == 0, "sparse list ", name, " has ", num_values,
        " elements, expected an even number");
  const int64_t row_length = num_values / 2;
  const int32_t* ends = values + row_length;
  std::vector<std::vector<int32_t>> words;
  int64_t begin = 0;
  bool ended = false;
  for (int64_t i = 0; i < row_length; ++i) {
    if (ends[i] == -1) {
      ended = true;
      continue;
    }
    check(!ended, "sparse list ", name, " has offset ", ends[i], " after the first -1");
    check(ends[i] > begin, "sparse list ", name, " has offset ", ends[i], " after offset ", begin,
          ", expected increasing offsets");
    check(ends[i] <= row_length, "sparse list ", name, " has offset ", ends[i],
          " beyond its length of ", row_length);
    words.emplace_back(values + begin, values + ends[i]);
    begin = ends[i];
  }
  return words;
}

IncomingRequest read_request(TRITONBACKEND_Request* request, const ReaderOptions& options) {
  IncomingRequest incoming;
  const char* id = nullptr;
  check_triton(TRITONBACKEND_RequestId(request, &id), "RequestId");
  incoming.id = id == nullptr ? "" : id;

  const Inputs inputs(request);
  incoming.stop = inputs.flag("stop", false);
  incoming.engine_request_id = inputs.scalar<uint64_t>("engine_request_id").value_or(0);
  incoming.client_left = inputs.flag("client_left", false);
  if (incoming.stop) {  // the other tensors are dummies
    check(!incoming.id.empty() || incoming.engine_request_id != 0,
          "cannot stop a request: the request ID is not provided");
    return incoming;
  }

  if (options.has_batch_dim) check_single_row(inputs);
  refuse_unsupported(inputs);

  ReplyOptions& reply = incoming.reply;
  reply.streaming = inputs.flag("streaming", false);
  check(!reply.streaming || options.decoupled,
        "streaming needs a model with decoupled transactions; this one is not decoupled");
  const bool exclude = inputs.flag("exclude_input_in_output", options.exclude_input_in_output);
  reply.include_prompt = !reply.streaming && !exclude;
  reply.log_probs = inputs.flag("return_log_probs", false);
  reply.text_context = inputs.values<uint8_t>("text_context");
  reply.has_text_context = !reply.text_context.empty();
  reply.outputs = requested_outputs(request);
  for (const char* required : {"output_ids", "sequence_length"})
    check(std::find(reply.outputs.begin(), reply.outputs.end(), required) != reply.outputs.end(),
          "the requested outputs must hold output_ids and sequence_length; ", required,
          " is missing");

  auto body = std::make_shared<executor::Request>();
  body->client_id = incoming.id;
  body->input_ids = inputs.values<int32_t>("input_ids");
  check(!body->input_ids.empty(), "input_ids is not present in the request or empty");
  body->sampling = read_sampling(inputs);
  body->stop = read_stop(inputs);
  body->streaming = reply.streaming;
  incoming.request = std::move(body);
  return incoming;
}

}  // namespace inflight::triton
