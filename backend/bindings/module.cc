// The Python module inflight._core: one register function per subject.
#include <pybind11/pybind11.h>

#include "kernels/core/error.h"

namespace inflight::bindings {
void register_decoding(pybind11::module_& module);
void register_engine(pybind11::module_& module);
void register_errors(pybind11::module_& module);
void register_kv_cache(pybind11::module_& module);
void register_kv_storage(pybind11::module_& module);
void register_model_config(pybind11::module_& module);
void register_ops(pybind11::module_& module);
void register_plan(pybind11::module_& module);
void register_planning(pybind11::module_& module);
void register_scheduler(pybind11::module_& module);
void register_schema(pybind11::module_& module);
void register_simulation(pybind11::module_& module);
void register_windows(pybind11::module_& module);

}  // namespace inflight::bindings

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of inflight: ops, plans, scheduling and the engine.";
  inflight::bindings::register_errors(module);  // first: the others raise them
  inflight::bindings::register_decoding(module);
  inflight::bindings::register_engine(module);
  inflight::bindings::register_kv_cache(module);
  inflight::bindings::register_kv_storage(module);
  inflight::bindings::register_model_config(module);
  inflight::bindings::register_ops(module);
  inflight::bindings::register_plan(module);
  inflight::bindings::register_scheduler(module);
  inflight::bindings::register_planning(module);  // takes the scheduler's limits
  inflight::bindings::register_schema(module);
  inflight::bindings::register_simulation(module);
  inflight::bindings::register_windows(module);
}
