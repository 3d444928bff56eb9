// Engine.submit: a request from Python's arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "backend/bindings/py_engine.h"

namespace inflight::bindings {

void bind_submit(pybind11::class_<PyEngine, std::shared_ptr<PyEngine>>& engine);

}  // namespace inflight::bindings
