// The Python module inflight._core: one register function per subject.
#include <pybind11/pybind11.h>

#include "kernels/core/error.h"

namespace inflight::bindings {}  // namespace inflight::bindings

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of inflight: ops, plans, scheduling and the engine.";
}
