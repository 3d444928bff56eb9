// inflight._core.kv_cache: blocks, tables and the tree of what was computed, without an engine, for
// property tests against Python models.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/invariants.h"
#include "backend/kv_cache/kv_cache_manager.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using namespace kv_cache;
using BoundManager = py::class_<KvCacheManager>;

void register_snapshots(py::module_& module) {
  py::class_<PoolSnapshot>(module, "PoolSnapshot")
      .def_readwrite("num_blocks", &PoolSnapshot::num_blocks)
      .def_readwrite("free_ids", &PoolSnapshot::free_ids)
      .def_readwrite("ref_counts", &PoolSnapshot::ref_counts);
  py::class_<TableSnapshot>(module, "TableSnapshot")
      .def_readwrite("table", &TableSnapshot::table)
      .def_readwrite("block_ids", &TableSnapshot::block_ids)
      .def_readwrite("num_committed", &TableSnapshot::num_committed)
      .def_readwrite("num_reserved", &TableSnapshot::num_reserved)
      .def_readwrite("room", &TableSnapshot::room)
      .def_readwrite("num_to_come", &TableSnapshot::num_to_come)
      .def_readwrite("copied_block", &TableSnapshot::copied_block)
      .def_readwrite("num_stored", &TableSnapshot::num_stored);
  py::class_<NodeSnapshot>(module, "NodeSnapshot")
      .def_readwrite("node", &NodeSnapshot::node)
      .def_readwrite("parent", &NodeSnapshot::parent)
      .def_readwrite("tokens", &NodeSnapshot::tokens)
      .def_readwrite("device_block", &NodeSnapshot::device_block)
      .def_readwrite("host_block", &NodeSnapshot::host_block)
      .def_readwrite("priority", &NodeSnapshot::priority)
      .def_readwrite("is_used", &NodeSnapshot::is_used);
  py::class_<CacheSnapshot>(module, "CacheSnapshot")
      .def_readwrite("tokens_per_block", &CacheSnapshot::tokens_per_block)
      .def_readwrite("pool", &CacheSnapshot::pool)
      .def_readwrite("tables", &CacheSnapshot::tables)
      .def_readwrite("nodes", &CacheSnapshot::nodes)
      .def_readwrite("num_host_blocks", &CacheSnapshot::num_host_blocks)
      .def_readwrite("free_host_ids", &CacheSnapshot::free_host_ids);
  module.def("violations", &violations, py::arg("snapshot"));
  module.def("check_invariants", &check_invariants, py::arg("snapshot"));
}

void register_blocks(py::module_& module) {
  py::class_<Geometry>(module, "Geometry")
      .def(py::init<int32_t>(), py::arg("tokens_per_block"))
      .def_property_readonly("tokens_per_block", &Geometry::tokens_per_block)
      .def("block_index", &Geometry::block_index, py::arg("position"))
      .def("offset_in_block", &Geometry::offset_in_block, py::arg("position"))
      .def("slot", &Geometry::slot, py::arg("block_id"), py::arg("position"))
      .def("num_blocks", &Geometry::num_blocks, py::arg("num_tokens"))
      .def("round_down", &Geometry::round_down, py::arg("position"))
      .def("max_pool_blocks", &Geometry::max_pool_blocks);
  py::class_<BlockPool>(module, "BlockPool")
      .def(py::init<int32_t>(), py::arg("num_blocks"))
      .def_property_readonly("num_blocks", &BlockPool::num_blocks)
      .def_property_readonly("num_free", &BlockPool::num_free)
      .def_property_readonly("num_used", &BlockPool::num_used)
      .def("ref_count", &BlockPool::ref_count, py::arg("block_id"))
      .def("snapshot", &BlockPool::snapshot);
  py::class_<BlockList>(module, "BlockList")
      .def(py::init<BlockPool&>(), py::arg("pool"), py::keep_alive<1, 2>())
      .def_property_readonly(
          "ids",
          [](const BlockList& list) {
            return py::list(py::cast(std::vector<int32_t>(list.ids().begin(), list.ids().end())));
          })
      .def("append_fresh", &BlockList::append_fresh, py::arg("count"))
      .def("append_shared", &BlockList::append_shared, py::arg("other"), py::arg("index"))
      .def("truncate", &BlockList::truncate, py::arg("size"));

  py::class_<Reservation>(module, "Reservation")
      .def(
          "commit",
          [](Reservation& reservation, const std::vector<std::vector<int32_t>>& tokens) {
            Reservation::TokensOf tokens_of;
            if (!tokens.empty())
              tokens_of = [&](int32_t i) { return TokenView{.prompt = tokens.at(i)}; };
            reservation.commit(tokens_of);
          },
          py::arg("tokens") = std::vector<std::vector<int32_t>>(),
          "tokens: of each table of the reserve, all that are known, or none at all.")
      .def("give_back", &Reservation::give_back)
      .def_property_readonly("is_open", &Reservation::is_open)
      .def_property_readonly("num_blocks", &Reservation::num_blocks);
  py::enum_<Tier>(module, "Tier").value("DEVICE", Tier::kDevice).value("HOST", Tier::kHost);
  py::class_<BlockCopy>(module, "BlockCopy")
      .def_readonly("from_tier", &BlockCopy::from_tier)
      .def_readonly("from_block", &BlockCopy::from_block)
      .def_readonly("to_tier", &BlockCopy::to_tier)
      .def_readonly("to_block", &BlockCopy::to_block)
      .def_readonly("num_tokens", &BlockCopy::num_tokens);
}

void register_prefixes(py::module_& module) {
  py::class_<PrefixMatch>(module, "PrefixMatch")
      .def_readonly("num_tokens", &PrefixMatch::num_tokens)
      .def_readonly("num_blocks", &PrefixMatch::num_blocks)
      .def_readonly("num_used_blocks", &PrefixMatch::num_used_blocks)
      .def_readonly("num_host_blocks", &PrefixMatch::num_host_blocks)
      .def_readonly("num_copied_tokens", &PrefixMatch::num_copied_tokens);
  py::class_<PrefixLookup>(module, "PrefixLookup").def(py::init<>());
  py::class_<PrefixStatistics>(module, "PrefixStatistics")
      .def_readonly("queried_tokens", &PrefixStatistics::queried_tokens)
      .def_readonly("hit_tokens", &PrefixStatistics::hit_tokens)
      .def_readonly("hit_blocks", &PrefixStatistics::hit_blocks)
      .def_readonly("copied_blocks", &PrefixStatistics::copied_blocks)
      .def_readonly("stored_blocks", &PrefixStatistics::stored_blocks)
      .def_readonly("evicted_blocks", &PrefixStatistics::evicted_blocks)
      .def_readonly("offloaded_blocks", &PrefixStatistics::offloaded_blocks)
      .def_readonly("onboarded_blocks", &PrefixStatistics::onboarded_blocks)
      .def_readonly("host_hit_tokens", &PrefixStatistics::host_hit_tokens);
  py::class_<PrefixScope>(module, "PrefixScope")
      .def(py::init(
               [](uint64_t adapter_id, std::string cache_salt, std::vector<uint64_t> extra_ids) {
                 return PrefixScope{adapter_id, std::move(cache_salt), std::move(extra_ids)};
               }),
           py::arg("adapter_id") = 0, py::arg("cache_salt") = "",
           py::arg("extra_ids") = std::vector<uint64_t>());
  py::class_<Retention>(module, "Retention")
      .def(py::init([](const std::vector<std::tuple<int32_t, std::optional<int32_t>, int32_t,
                                                    std::optional<int64_t>>>& ranges,
                       int32_t decode_priority, std::optional<int64_t> decode_duration_ms) {
             const auto duration = [](std::optional<int64_t> ms) {
               return ms ? std::optional(std::chrono::milliseconds(*ms)) : std::nullopt;
             };
             Retention retention;
             for (const auto& [begin, end, priority, ms] : ranges)
               retention.ranges.push_back({begin, end, priority, duration(ms)});
             retention.decode_priority = decode_priority;
             retention.decode_duration = duration(decode_duration_ms);
             validate(retention);
             return retention;
           }),
           py::arg("ranges"), py::arg("decode_priority") = Retention::kDefaultPriority,
           py::arg("decode_duration_ms") = std::nullopt,
           "ranges: (begin, end or None, priority, milliseconds or None) of the prompt.");
}

/// What the engine asks of it for a sequence's tokens.
void define_tables(BoundManager& bound) {
  bound
      .def(py::init([](int32_t tokens_per_block, int32_t num_blocks, bool enable_reuse,
                       bool enable_partial_reuse, int32_t vocab_size, int32_t num_host_blocks,
                       bool onboard_blocks, int64_t block_bytes) {
             return std::make_unique<KvCacheManager>(
                 Geometry(tokens_per_block), num_blocks,
                 CacheOptions{enable_reuse, enable_partial_reuse, vocab_size, num_host_blocks,
                              onboard_blocks, block_bytes});
           }),
           py::arg("tokens_per_block"), py::arg("num_blocks"), py::arg("enable_reuse") = false,
           py::arg("enable_partial_reuse") = true,
           py::arg("vocab_size") = std::numeric_limits<int32_t>::max(),
           py::arg("num_host_blocks") = 0, py::arg("onboard_blocks") = true,
           py::arg("block_bytes") = 0)
      .def(
          "match",
          [](const KvCacheManager& manager, const std::vector<int32_t>& tokens,
             const PrefixScope* scope,
             PrefixLookup* lookup) { return manager.match({.prompt = tokens}, scope, -1, lookup); },
          py::arg("tokens"), py::arg("scope") = nullptr, py::arg("lookup") = nullptr)
      .def(
          "open",
          [](KvCacheManager& manager, const std::vector<int32_t>& tokens, const PrefixScope* scope,
             const Retention* retention, bool may_reuse, TableId twin, const PrefixLookup* lookup,
             bool always_onboard) {
            return manager.open({{.prompt = tokens},
                                 scope,
                                 retention,
                                 may_reuse,
                                 twin,
                                 lookup,
                                 always_onboard ? Onboarding::kAlways : Onboarding::kIfCheaper});
          },
          py::arg("tokens") = std::vector<int32_t>(), py::arg("scope") = nullptr,
          py::arg("retention") = nullptr, py::arg("may_reuse") = true, py::arg("twin") = -1,
          py::arg("lookup") = nullptr, py::arg("always_onboard") = false, py::keep_alive<1, 4>(),
          "A retention is kept alive as long as the manager.")
      .def(
          "reserve",
          [](KvCacheManager& manager,
             const std::vector<std::tuple<TableId, int32_t, int32_t>>& step) {
            std::vector<Growth> growths;
            for (const auto& [table, first_position, num_tokens] : step)
              growths.push_back({table, first_position, num_tokens});
            return manager.reserve(growths);
          },
          py::arg("step"), py::keep_alive<0, 1>(),
          "step: (table, first_position, num_tokens) of each; None if the blocks do not suffice.")
      .def(
          "release",
          [](KvCacheManager& manager, TableId table, const std::vector<int32_t>& tokens) {
            manager.release(table, {.prompt = tokens});
          },
          py::arg("table"), py::arg("tokens") = std::vector<int32_t>());
}

/// What moves in the pool, and to and from the host tier.
void define_copies(BoundManager& bound) {
  bound
      .def("copies",
           [](const KvCacheManager& manager) {
             return std::vector<BlockCopy>(manager.copies().begin(), manager.copies().end());
           })
      .def("clear_copies", &KvCacheManager::clear_copies)
      .def("forget_cached", &KvCacheManager::forget_cached)
      .def(
          "set_costs",
          [](KvCacheManager& manager, double bytes_per_second, double tokens_per_second,
             double generation_seconds) {
            manager.set_costs({bytes_per_second, tokens_per_second, generation_seconds});
          },
          py::arg("bytes_per_second"), py::arg("tokens_per_second"),
          py::arg("generation_seconds") = 0.0)
      .def("copies_beside_step", &KvCacheManager::copies_beside_step, py::arg("num_prompt_tokens"))
      .def("num_copies_to_bring", &KvCacheManager::num_copies_to_bring, py::arg("num_blocks"))
      .def(
          "bring_ahead",
          [](KvCacheManager& manager, const std::vector<int32_t>& tokens, int32_t max_copies) {
            manager.bring_ahead({.prompt = tokens}, nullptr, max_copies);
          },
          py::arg("tokens"), py::arg("max_copies"))
      .def(
          "set_time_ms",
          [](KvCacheManager& manager, int64_t now) {
            manager.set_time(std::chrono::milliseconds(now));
          },
          py::arg("now"));
}

void define_facts(BoundManager& bound) {
  bound
      .def(
          "block_table",
          [](const KvCacheManager& manager, TableId table) {
            const std::span<const int32_t> ids = manager.block_table(table);
            return std::vector<int32_t>(ids.begin(), ids.end());
          },
          py::arg("table"))
      .def("num_cached_tokens", &KvCacheManager::num_cached_tokens, py::arg("table"))
      .def_property_readonly("num_blocks", &KvCacheManager::num_blocks)
      .def_property_readonly("num_free_blocks", &KvCacheManager::num_free_blocks)
      .def_property_readonly("num_cached_blocks", &KvCacheManager::num_cached_blocks)
      .def_property_readonly("num_used_blocks", &KvCacheManager::num_used_blocks)
      .def_property_readonly("num_host_blocks", &KvCacheManager::num_host_blocks)
      .def_property_readonly("num_cached_host_blocks", &KvCacheManager::num_cached_host_blocks)
      .def_property_readonly("prefix_statistics", &KvCacheManager::prefix_statistics)
      .def_property_readonly("num_tables", &KvCacheManager::num_tables)
      .def("snapshot", &KvCacheManager::snapshot);
}

}  // namespace

void register_kv_cache(py::module_& parent) {
  py::module_ module = parent.def_submodule("kv_cache", "Blocks, tables, reservations.");
  register_snapshots(module);
  register_blocks(module);
  register_prefixes(module);
  BoundManager bound(module, "KvCacheManager");
  define_tables(bound);
  define_copies(bound);
  define_facts(bound);
}

}  // namespace inflight::bindings
