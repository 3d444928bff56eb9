#include "backend/bindings/numpy_view.h"

#include <pybind11/pybind11.h>

#include "kernels/core/check.h"

namespace py = pybind11;

namespace inflight::bindings {

TensorView view_of(const std::string& name, const py::array& array) {
  const auto dtype_name = py::str(array.dtype().attr("name")).cast<std::string>();
  const auto dtype = dtype_from_name(dtype_name);
  check(dtype.has_value(), name, ": dtype ", dtype_name, " has no counterpart");
  check(array.ndim() <= kMaxRank, name, ": rank ", array.ndim(), " > ", kMaxRank);
  TensorView view;
  view.data = const_cast<void*>(array.data());
  view.dtype = *dtype;
  view.rank = static_cast<int>(array.ndim());
  for (int i = 0; i < view.rank; ++i) {
    view.shape[i] = array.shape(i);
    view.strides[i] = array.strides(i) / array.itemsize();
  }
  return view;
}

}  // namespace inflight::bindings
