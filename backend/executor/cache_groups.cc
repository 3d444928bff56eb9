#include "backend/executor/cache_groups.h"

#include <algorithm>

#include "backend/kv_cache/kv_storage.h"
#include "kernels/core/check.h"

namespace inflight::executor {

std::vector<KvGroupInfo> kv_groups(const plan::KvCacheSpec& spec) {
  std::vector<KvGroupInfo> groups;
  for (const plan::KvGroup& group : spec.groups) {
    std::vector<kv_cache::LayerSpec> layers;
    for (int layer : group.layers)
      layers.push_back({spec.layers[layer].num_kv_heads, spec.layers[layer].head_size});
    const int64_t bytes =
        kv_cache::bytes_per_block(layers, kv_cache::Geometry(spec.tokens_per_block), spec.dtype);
    groups.push_back({.window = group.window,
                      .num_sinks = group.num_sinks,
                      .num_layers = static_cast<int>(group.layers.size()),
                      .bytes_per_block = bytes});
  }
  return groups;
}

std::vector<kv_cache::LayerGroup> layer_groups(std::span<const KvGroupInfo> groups) {
  std::vector<kv_cache::LayerGroup> result;
  for (const KvGroupInfo& group : groups) {
    kv_cache::LayerGroup& each = result.emplace_back();
    if (group.window > 0) each.window = {group.window, group.num_sinks};
    each.bytes_per_block = group.bytes_per_block;
  }
  return result;
}

void set_pool_blocks(EngineInfo& info, std::span<const int64_t> blocks) {
  check_internal(blocks.size() == info.kv_groups.size() && !blocks.empty(), blocks.size(),
                 " pools of ", info.kv_groups.size(), " groups of layers");
  info.num_blocks = blocks[0];
  for (size_t g = 0; g < blocks.size(); ++g) {
    info.kv_groups[g].num_blocks = blocks[g];
    if (info.kv_groups[g].window == 0) info.num_blocks = blocks[g];
  }
}

int64_t pool_bytes(const EngineInfo& info) {
  int64_t bytes = 0;
  for (const KvGroupInfo& group : info.kv_groups) bytes += group.num_blocks * group.bytes_per_block;
  return bytes;
}

bool has_windows(const EngineInfo& info) {
  return std::ranges::any_of(info.kv_groups, [](const KvGroupInfo& g) { return g.window > 0; });
}

int shown_pool(const EngineInfo& info) {
  const bool any_sees_everything =
      info.kv_groups.empty() ||
      std::ranges::any_of(info.kv_groups, [](const KvGroupInfo& g) { return g.window == 0; });
  return any_sees_everything ? -1 : 0;
}

int32_t manager_blocks(const EngineInfo& info) {
  if (shown_pool(info) < 0) return static_cast<int32_t>(info.num_blocks);
  const kv_cache::Geometry geometry(info.tokens_per_block);
  // Sequences that end hold theirs while a step in flight names them.
  const int64_t most = 2 * int64_t{info.max_batch_size} *
                       geometry.num_blocks(kv_cache::max_cached_tokens(info.max_seq_len));
  return static_cast<int32_t>(std::min<int64_t>(most, geometry.max_pool_blocks()));
}

std::vector<kv_cache::WindowPoolSpec> window_pools(const EngineInfo& info) {
  std::vector<kv_cache::WindowPoolSpec> pools;
  for (const KvGroupInfo& group : info.kv_groups) {
    if (group.window > 0)
      pools.push_back({{group.window, group.num_sinks}, static_cast<int32_t>(group.num_blocks)});
  }
  return pools;
}

std::vector<scheduler::WindowGroupView> window_views(const EngineInfo& info) {
  std::vector<scheduler::WindowGroupView> views;
  for (const kv_cache::WindowPoolSpec& pool : window_pools(info))
    views.push_back({.window = pool.window, .num_blocks = pool.num_blocks});
  return views;
}

std::vector<int> table_sources(const EngineInfo& info) {
  if (info.kv_groups.empty()) return {-1};
  std::vector<int> sources;
  int next = 0;
  for (const KvGroupInfo& group : info.kv_groups) sources.push_back(group.window > 0 ? next++ : -1);
  return sources;
}

}  // namespace inflight::executor
