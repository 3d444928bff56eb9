// The tensors of the `tensorrt_llm` model: names, types, shapes and what the backend does with
// them. Held equal to python_model/inflight/serving/schema.py by a test. Knows nothing of Triton.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

namespace inflight::triton {

enum class TensorSupport {
  kUsed,
  kIgnored,  // legal, without effect
  kRefused,  // "not supported yet" unless empty or equal to its default
};

struct TensorSpec {
  static constexpr double kNoDefault = std::numeric_limits<double>::quiet_NaN();

  std::string_view name;
  std::string_view dtype;     // as in config.pbtxt, without TYPE_
  std::vector<int64_t> dims;  // without the batch dimension; -1 = any
  bool optional = true;
  bool scalar = false;  // one element a row, reshaped to none
  bool ragged = false;
  TensorSupport support = TensorSupport::kUsed;
  double default_value = kNoDefault;
};

std::span<const TensorSpec> input_specs();
std::span<const TensorSpec> output_specs();
/// nullptr if the model has no such input.
const TensorSpec* find_input(std::string_view name);

}  // namespace inflight::triton
