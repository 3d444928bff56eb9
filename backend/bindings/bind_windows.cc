// The pools of layers that see a window, for tests: the manager with such pools, what they can hold
// at most, and how memory is divided.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/kv_cache/pool_sizes.h"
#include "backend/kv_cache/window_geometry.h"

namespace inflight::bindings {
namespace py = pybind11;
using namespace kv_cache;

namespace {

std::vector<int64_t> divide(
    const std::vector<std::tuple<std::optional<int32_t>, int32_t, int64_t>>& groups,
    int32_t tokens_per_block, int32_t max_batch_size, int32_t max_num_tokens, int32_t max_seq_len,
    int64_t budget) {
  std::vector<LayerGroup> layer_groups;
  for (const auto& [window, num_sinks, bytes] : groups) {
    LayerGroup group{.bytes_per_block = bytes};
    if (window) group.window = {*window, num_sinks};
    layer_groups.push_back(group);
  }
  return divide_budget(layer_groups, Geometry(tokens_per_block),
                       {.max_batch_size = max_batch_size,
                        .max_num_tokens = max_num_tokens,
                        .max_seq_len = max_seq_len},
                       budget);
}

}  // namespace

void register_windows(py::module_& parent) {
  py::module_ module = parent.def_submodule("windows", "Pools of layers that see a window.");
  module.def(
      "new_manager",
      [](int32_t tokens_per_block, int32_t num_blocks,
         const std::vector<std::tuple<int32_t, int32_t, int32_t>>& windows, bool enable_reuse) {
        CacheOptions options{.enable_reuse = enable_reuse};
        for (const auto& [window, num_sinks, blocks] : windows)
          options.windows.push_back({{window, num_sinks}, blocks});
        return std::make_unique<KvCacheManager>(Geometry(tokens_per_block), num_blocks, options);
      },
      py::arg("tokens_per_block"), py::arg("num_blocks"), py::arg("windows"),
      py::arg("enable_reuse") = false,
      "A KvCacheManager; windows: (window, sinks, blocks) of each pool.");
  module.def(
      "block_table",
      [](const KvCacheManager& manager, int index, TableId table) {
        const auto ids = manager.window_table(index, table);
        return std::vector<int32_t>(ids.begin(), ids.end());
      },
      py::arg("manager"), py::arg("index"), py::arg("table"), "-1 where there is a hole.");
  module.def(
      "num_free_blocks",
      [](const KvCacheManager& manager, int index) {
        return manager.window_pools()[index].num_free_blocks();
      },
      py::arg("manager"), py::arg("index"));
  module.def(
      "num_cached_blocks",
      [](const KvCacheManager& manager, int index) {
        return manager.window_pools()[index].num_cached_blocks();
      },
      py::arg("manager"), py::arg("index"));
  module.def(
      "nodes",
      [](const KvCacheManager& manager, int index) {
        return manager.window_pools()[index].snapshot().nodes;
      },
      py::arg("manager"), py::arg("index"),
      "By block: the node of the prefix tree it is of, or -1.");
  module.def(
      "demand",
      [](int32_t tokens_per_block, int32_t window, int32_t num_sinks, int32_t max_num_tokens,
         int32_t max_steps_in_flight, const std::vector<int32_t>& max_total_lens) {
        WindowDemand demand(Geometry(tokens_per_block), {window, num_sinks}, max_num_tokens,
                            max_steps_in_flight);
        for (int32_t length : max_total_lens) demand.add(length);
        return demand.num_blocks();
      },
      py::arg("tokens_per_block"), py::arg("window"), py::arg("num_sinks"),
      py::arg("max_num_tokens"), py::arg("max_steps_in_flight"), py::arg("max_total_lens"),
      "Most blocks that such sequences hold at once.");
  module.def("divide_budget", &divide, py::arg("groups"), py::kw_only(),
             py::arg("tokens_per_block"), py::arg("max_batch_size"), py::arg("max_num_tokens"),
             py::arg("max_seq_len"), py::arg("budget"),
             "groups: (window or None, sinks, bytes of a block) of each.");
}

}  // namespace inflight::bindings
