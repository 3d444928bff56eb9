// The input tensors of a Triton request: fetched once, found by name, read as one row of the
// request's batch. Knows types and sizes, not what a tensor means.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/triton/request_schema.h"
#include "backend/triton/triton_c_api.h"
#include "kernels/core/check.h"

namespace inflight::triton {

/// Bytes of an element; 0 where elements differ in size (strings).
size_t element_size(TRITONSERVER_DataType type);

struct InputTensor {
  const TensorSpec* spec = nullptr;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<int64_t> shape;  // batch dimension included
  std::vector<uint8_t> bytes;
};

/// All tensors of a request, of every row.
class InputTensors {
 public:
  /// Raises Error for a tensor that is in no schema, lies on a GPU or does not fill its shape.
  InputTensors(TRITONBACKEND_Request* request, bool has_batch_dim);

  std::span<const InputTensor> all() const { return tensors_; }
  /// Equal in all tensors.
  int64_t num_rows() const { return num_rows_; }
  /// Null when absent or of length zero.
  const InputTensor* find(std::string_view name) const;

 private:
  std::vector<InputTensor> tensors_;
  int64_t num_rows_ = 1;
};

/// One row. The tensors outlive it.
class Inputs {
 public:
  explicit Inputs(const InputTensors& tensors, int64_t row = 0) : tensors_(tensors), row_(row) {}

  int64_t row() const { return row_; }
  int64_t num_rows() const { return tensors_.num_rows(); }
  bool has(std::string_view name) const { return tensors_.find(name) != nullptr; }

  template <typename T>
  std::vector<T> values(std::string_view name) const {
    const InputTensor* tensor = tensors_.find(name);
    if (tensor == nullptr) return {};
    check(element_size(tensor->type) == sizeof(T), "tensor ", name, " has elements of ",
          element_size(tensor->type), " bytes, expected ", sizeof(T));
    const size_t row_bytes = tensor->bytes.size() / static_cast<size_t>(num_rows());
    std::vector<T> out(row_bytes / sizeof(T));
    if (row_bytes > 0) std::memcpy(out.data(), tensor->bytes.data() + row_ * row_bytes, row_bytes);
    return out;
  }

  /// Of any floating type that a configuration may declare: FP32, FP16 or BF16.
  std::vector<float> floats(std::string_view name) const;

  template <typename T>
  std::optional<T> scalar(std::string_view name) const {
    std::vector<T> all = values<T>(name);
    if (all.empty()) return std::nullopt;
    check(all.size() == 1, "Invalid size for tensor ", name, ": it has ", all.size(),
          " elements, expected 1");
    return all[0];
  }

  /// The row's string. Raises Error if there are several, or the bytes are not one.
  std::optional<std::string> text(std::string_view name) const;

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
  const InputTensors& tensors_;
  const int64_t row_;
};

/// Raises unsupported for a tensor that the schema refuses, unless it is empty or all its elements
/// hold its default.
void refuse_unsupported(const InputTensors& tensors);

}  // namespace inflight::triton
