// numpy arrays as the engine's views. Holds no reference: the array must outlive its view.
#pragma once

#include <pybind11/numpy.h>

#include <string>

#include "kernels/core/tensor_view.h"

namespace inflight::bindings {

/// `name` is for errors: a dtype or a rank that the engine does not have.
TensorView view_of(const std::string& name, const pybind11::array& array);

}  // namespace inflight::bindings
