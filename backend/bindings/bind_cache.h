// What Python sees of the engine's KV cache: its events, and blocks to carry to another engine.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "backend/bindings/py_engine.h"

namespace inflight::bindings {

void bind_cache(pybind11::module_& module,
                pybind11::class_<PyEngine, std::shared_ptr<PyEngine>>& engine);

}  // namespace inflight::bindings
