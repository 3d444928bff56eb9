// A Triton response under construction: outputs by name. Adds what the client asked for and leaves
// the rest out.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

template <typename T>
constexpr TRITONSERVER_DataType triton_type() {
  if constexpr (std::is_same_v<T, int32_t>) return TRITONSERVER_TYPE_INT32;
  if constexpr (std::is_same_v<T, int64_t>) return TRITONSERVER_TYPE_INT64;
  if constexpr (std::is_same_v<T, float>) return TRITONSERVER_TYPE_FP32;
  if constexpr (std::is_same_v<T, uint8_t>) return TRITONSERVER_TYPE_UINT8;
  return TRITONSERVER_TYPE_INVALID;
}

struct DeleteResponse {
  void operator()(TRITONBACKEND_Response* response) const;
};

/// Deleted unless sent. The gRPC front-end counts the responses that it gave out, and a stream does
/// not end before all of them were sent: one that cannot be filled is kept for the error.
using ResponsePtr = std::unique_ptr<TRITONBACKEND_Response, DeleteResponse>;

/// Whether a part of an answer did not reach the client, whose end must be an error then, and the
/// response that the error goes out with.
struct LostPart {
  bool is_lost = false;
  ResponsePtr unfilled;
};

class ResponseBuilder {
 public:
  /// `outputs` are those asked for. They outlive it, and so does `unfilled`, where the response is
  /// left unless it is taken. Raises Error if the server gives no response.
  ResponseBuilder(TRITONBACKEND_ResponseFactory* factory, const std::vector<std::string>& outputs,
                  ResponsePtr& unfilled);
  ~ResponseBuilder();
  ResponseBuilder(const ResponseBuilder&) = delete;
  ResponseBuilder& operator=(const ResponseBuilder&) = delete;

  /// `values` fill `shape`, batch dimension included.
  template <typename T>
  void add(const char* name, std::initializer_list<int64_t> shape, const std::vector<T>& values) {
    static_assert(triton_type<T>() != TRITONSERVER_TYPE_INVALID);
    if (wants(name)) write(name, triton_type<T>(), shape, values.data(), values.size() * sizeof(T));
  }
  /// The same as FP16.
  void add_fp16(const char* name, std::initializer_list<int64_t> shape,
                const std::vector<float>& values);
  /// [1, 1].
  template <typename T>
  void add(const char* name, T value) {
    if (wants(name)) add_always(name, value);
  }
  /// [1, 1], asked for or not.
  template <typename T>
  void add_always(const char* name, T value) {
    static_assert(triton_type<T>() != TRITONSERVER_TYPE_INVALID);
    write(name, triton_type<T>(), {1, 1}, &value, sizeof(T));
  }
  /// A STRING of [1, 1].
  void add_text(const char* name, std::string_view text);

  bool wants(std::string_view name) const;
  ResponsePtr take() { return std::move(response_); }

 private:
  void write(const char* name, TRITONSERVER_DataType type, std::initializer_list<int64_t> shape,
             const void* data, size_t num_bytes);

  const std::vector<std::string>& outputs_;
  ResponsePtr& unfilled_;
  ResponsePtr response_;
};

}  // namespace inflight::triton
