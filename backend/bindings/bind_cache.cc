#include "backend/bindings/bind_cache.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "backend/kv_cache/cache_events.h"
#include "backend/kv_cache/prefix.h"
#include "kernels/core/check.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using executor::ExportedPrefix;
using kv_cache::CacheEvent;

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

int level_of(kv_cache::Tier tier) { return tier == kv_cache::Tier::kHost ? 1 : 0; }

// The fields of TensorRT-LLM's LLM.get_kv_cache_events.
py::dict data_of(const kv_cache::CacheCreated& event) {
  py::dict data;
  data["type"] = "created";
  data["num_blocks_per_cache_level"] =
      std::vector<int64_t>{event.num_device_blocks, event.num_host_blocks};
  return data;
}

py::dict data_of(const kv_cache::BlocksStored& event) {
  py::list blocks;
  for (const kv_cache::StoredBlock& block : event.blocks) {
    py::list tokens;
    for (const int32_t id : block.token_ids) {
      py::dict token;
      token["type"] = "unique_token";
      token["token_id"] = id;
      token["token_extra_id"] = 0;
      tokens.append(token);
    }
    py::dict one;
    one["type"] = "stored_block";
    one["block_hash"] = block.hash;
    one["tokens"] = tokens;
    one["cache_level"] = level_of(block.tier);
    one["priority"] = block.priority;
    blocks.append(one);
  }
  py::dict data;
  data["type"] = "stored";
  data["parent_hash"] = event.parent_hash;
  data["blocks"] = blocks;
  return data;
}

py::dict data_of(const kv_cache::BlocksRemoved& event) {
  py::dict data;
  data["type"] = "removed";
  data["block_hashes"] = event.hashes;
  return data;
}

py::dict data_of(const kv_cache::BlockMoved& event) {
  py::dict level;
  level["type"] = "event_diff";
  level["old_value"] = level_of(event.from);
  level["new_value"] = level_of(event.to);
  py::dict data;
  data["type"] = "updated";
  data["block_hash"] = event.hash;
  data["cache_level"] = level;
  data["priority"] = py::none();
  return data;
}

py::dict data_of(const kv_cache::EventsLost& event) {
  py::dict data;
  data["type"] = "lost";
  data["num_events"] = event.num_events;
  return data;
}

py::list to_python(const std::vector<CacheEvent>& events) {
  py::list result;
  for (const CacheEvent& event : events) {
    py::dict one;
    one["event_id"] = event.id;
    one["data"] = std::visit([](const auto& data) { return data_of(data); }, event.data);
    result.append(one);
  }
  return result;
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
            std::vector<CacheEvent> events;
            {
              const py::gil_scoped_release release;
              events = self.kv_cache_events(timeout);
            }
            return to_python(events);
          },
          py::arg("timeout") = 0.0);
}

}  // namespace inflight::bindings
