// The C++ tensor table for the test that holds it equal to Python's.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <string>

#include "backend/triton/request_schema.h"

namespace inflight::bindings {

namespace py = pybind11;

namespace {

const char* support_name(triton::TensorSupport support) {
  switch (support) {
    case triton::TensorSupport::kUsed:
      return "used";
    case triton::TensorSupport::kIgnored:
      return "ignored";
    case triton::TensorSupport::kRefused:
      return "refused";
  }
  return "";
}

py::list rows(std::span<const triton::TensorSpec> specs) {
  py::list out;
  for (const triton::TensorSpec& spec : specs) {
    py::dict row;
    row["name"] = std::string(spec.name);
    row["dtype"] = std::string(spec.dtype);
    row["dims"] = py::tuple(py::cast(spec.dims));
    row["optional"] = spec.optional;
    row["scalar"] = spec.scalar;
    row["ragged"] = spec.ragged;
    row["support"] = support_name(spec.support);
    row["default"] =
        std::isnan(spec.default_value) ? py::object(py::none()) : py::cast(spec.default_value);
    out.append(row);
  }
  return out;
}

}  // namespace

void register_schema(py::module_& module) {
  module.def(
      "schema_inputs", [] { return rows(triton::input_specs()); },
      "Inputs of the tensorrt_llm model, one dict a tensor.");
  module.def(
      "schema_outputs", [] { return rows(triton::output_specs()); },
      "Outputs of the tensorrt_llm model, one dict a tensor.");
}

}  // namespace inflight::bindings
