// Triton's side of the C interface, in memory: requests are made here, answers are kept for the
// test to look at. One file replaces the server for everything in backend/triton.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/triton/triton_c_api.h"

namespace inflight::testing {

struct FakeTensor {
  std::string name;
  TRITONSERVER_DataType type;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  template <typename T>
  std::vector<T> values() const {
    std::vector<T> out(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
};

/// What the client would have received.
struct FakeAnswer {
  std::vector<FakeTensor> outputs;
  bool is_final = false;
  int64_t number = 0;  // in the order in which answers went out, to whichever request
  std::optional<std::string> error;
  TRITONSERVER_Error_Code code = TRITONSERVER_ERROR_UNKNOWN;

  const FakeTensor* find(const std::string& name) const {
    for (const FakeTensor& output : outputs)
      if (output.name == name) return &output;
    return nullptr;
  }
};

/// Numbers of objects alive: all zero after a test.
struct FakeCounts {
  std::atomic<int> errors{0}, factories{0}, responses{0}, metrics{0}, families{0};
  std::atomic<int> freed_gauges_set{0};  // the server's heap is damaged
  std::atomic<int> dropped{0};  // responses begun and not sent: a stream waits for them for good
};
FakeCounts& fake_counts();

/// The value of a gauge or counter by "family category", for example
/// "nv_trt_llm_request_metrics active".
std::map<std::string, double> fake_gauges();

struct FakeHistogram {
  std::vector<double> bounds;
  std::vector<int> counts;  // by bucket, not summed; the last is above all bounds
  int num_observed = 0;
  double sum = 0;
};
/// By the name of its family.
FakeHistogram fake_histogram(const std::string& family);

/// Whether the server refuses to unload models when asked from inside; forgets those so far.
void fake_refuse_unloads(bool refuse);
std::vector<std::string> fake_unloaded_models();

/// Of the next responses, to whichever request, so many are not taken.
void fake_refuse_responses(int count);

/// Of the next outputs of responses so many get no memory.
void fake_refuse_outputs(int count);

/// Whether the log shows level 1; forgets the lines so far.
void fake_log_verbosely(bool verbose);
std::vector<std::string> fake_verbose_lines();

}  // namespace inflight::testing

struct TRITONBACKEND_Model {
  std::string name;
  uint64_t version = 1;
  std::string location;  // of the model, above its versions
  std::string config;    // JSON
  std::string backend = "inflight";
  void* state = nullptr;
};

struct TRITONBACKEND_ModelInstance {
  TRITONBACKEND_Model* model;
  void* state = nullptr;
};

struct TRITONBACKEND_Input {
  inflight::testing::FakeTensor tensor;
  size_t num_buffers = 1;  // the bytes in so many pieces
};

struct TRITONBACKEND_Request {
  std::string id;
  std::vector<TRITONBACKEND_Input> inputs;
  std::vector<std::string> outputs;
  std::vector<std::pair<std::string, std::string>> parameters;  // texts
  std::atomic<bool> cancelled{false};
  std::atomic<int> num_told_cancelled{0};  // how often the backend asked and heard of it

  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::vector<inflight::testing::FakeAnswer> answers;
  int num_finals = 0, num_released = 0, num_statistics = 0;
  bool success = false;

  template <typename T>
  TRITONBACKEND_Request& add(const std::string& name, TRITONSERVER_DataType type,
                             std::vector<int64_t> shape, const std::vector<T>& values) {
    std::vector<uint8_t> bytes(values.size() * sizeof(T));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    inputs.push_back({{name, type, std::move(shape), std::move(bytes)}});
    return *this;
  }
  TRITONBACKEND_Request& ids(const std::string& name, const std::vector<int32_t>& values) {
    return add(name, TRITONSERVER_TYPE_INT32, {1, static_cast<int64_t>(values.size())}, values);
  }
  TRITONBACKEND_Request& number(const std::string& name, int32_t value) {
    return add(name, TRITONSERVER_TYPE_INT32, {1}, std::vector{value});
  }
  TRITONBACKEND_Request& real(const std::string& name, float value) {
    return add(name, TRITONSERVER_TYPE_FP32, {1}, std::vector{value});
  }
  TRITONBACKEND_Request& text(const std::string& name, const std::string& value) {
    const auto length = static_cast<uint32_t>(value.size());
    std::vector<uint8_t> bytes(sizeof(length));
    std::memcpy(bytes.data(), &length, sizeof(length));
    bytes.insert(bytes.end(), value.begin(), value.end());
    return add(name, TRITONSERVER_TYPE_BYTES, {1}, bytes);
  }
  TRITONBACKEND_Request& flag(const std::string& name, bool value) {
    return add(name, TRITONSERVER_TYPE_BOOL, {1}, std::vector<uint8_t>{value});
  }

  void wait_until_released();
  void wait_for_answers(size_t count);
};

namespace inflight::testing {

/// The least a client sends: ids, their number, an output length; all outputs asked for but the
/// heartbeat, which is for ensembles.
std::unique_ptr<TRITONBACKEND_Request> make_request(const std::vector<int32_t>& prompt,
                                                    int output_length);

}  // namespace inflight::testing
