#include "backend/bindings/bind_cache.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>
#include <vector>

#include "backend/kv_cache/cache_event_json.h"
#include "backend/kv_cache/prefix.h"
#include "kernels/core/check.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using executor::ExportedPrefix;

kv_cache::PrefixScope scope_of(uint64_t adapter_id, const std::string& cache_salt) {
  kv_cache::PrefixScope scope;
  scope.adapter_id = adapter_id;
  scope.cache_salt = cache_salt;
  return scope;
}

ExportedPrefix make_prefix(const std::string& layout, std::vector<int32_t> token_ids,
                           const py::array_t<uint8_t, py::array::c_style>& blocks) {
  ExportedPrefix prefix{layout, std::move(token_ids), {}};
  const auto* bytes = reinterpret_cast<const std::byte*>(blocks.data());
  prefix.blocks.assign(bytes, bytes + blocks.size());
  return prefix;
}

py::array_t<uint8_t> blocks_of(const ExportedPrefix& prefix) {
  return py::array_t<uint8_t>(static_cast<py::ssize_t>(prefix.blocks.size()),
                              reinterpret_cast<const uint8_t*>(prefix.blocks.data()));
}

}  // namespace

void bind_cache(py::module_& module, py::class_<PyEngine, std::shared_ptr<PyEngine>>& engine) {
  py::class_<ExportedPrefix>(module, "ExportedPrefix")
      .def(py::init(&make_prefix), py::arg("layout"), py::arg("token_ids"), py::arg("blocks"))
      .def_readonly("layout", &ExportedPrefix::layout)
      .def_readonly("token_ids", &ExportedPrefix::token_ids)
      .def_property_readonly("blocks", &blocks_of);
  engine
      .def(
          "export_prefix",
          [](PyEngine& self, const std::vector<int32_t>& token_ids, uint64_t adapter_id,
             const std::string& cache_salt) {
            const py::gil_scoped_release release;
            return self.export_prefix(token_ids, scope_of(adapter_id, cache_salt));
          },
          py::arg("token_ids"), py::kw_only(), py::arg("adapter_id") = 0,
          py::arg("cache_salt") = "")
      .def(
          "import_prefix",
          [](PyEngine& self, const ExportedPrefix& prefix, uint64_t adapter_id,
             const std::string& cache_salt) {
            const py::gil_scoped_release release;
            self.import_prefix(prefix, scope_of(adapter_id, cache_salt));
          },
          py::arg("prefix"), py::kw_only(), py::arg("adapter_id") = 0, py::arg("cache_salt") = "")
      .def(
          "kv_cache_events",
          [](PyEngine& self, double timeout) {
            check(timeout >= 0, "timeout is ", timeout, " s; it must be at least 0");
            std::string events;
            {
              const py::gil_scoped_release release;
              events = kv_cache::to_json(self.kv_cache_events(timeout));
            }
            return py::module_::import("json").attr("loads")(events);
          },
          py::arg("timeout") = 0.0);
}

}  // namespace inflight::bindings
