// How errors of the core look in Python.
#pragma once

#include <pybind11/pybind11.h>

#include "kernels/core/error.h"

namespace inflight::bindings {

/// A Python exception object for `error`, not raised.
pybind11::object make_exception(const Error& error);

}  // namespace inflight::bindings
