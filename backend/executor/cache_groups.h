// The pools of an engine's cache, one for each group of layers that see the same: from the engine
// file to the sizes of pools, what the manager and the scheduler are told, and where a step's
// tables go. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/kv_cache/pool_sizes.h"
#include "backend/plan/engine_file.h"
#include "backend/scheduler/view.h"

namespace inflight::executor {

/// The groups in the plan's order, without num_blocks.
std::vector<KvGroupInfo> kv_groups(const plan::KvCacheSpec& spec);
/// The same for the division of memory.
std::vector<kv_cache::LayerGroup> layer_groups(std::span<const KvGroupInfo> groups);

/// Sets num_blocks of the groups, and of `info` that of full attention or, where no layer has it,
/// of the first group.
void set_pool_blocks(EngineInfo& info, std::span<const int64_t> blocks);

/// Bytes of all pools.
int64_t pool_bytes(const EngineInfo& info);
/// Whether any layer sees a window. Blocks of such an engine stay in its pools.
bool has_windows(const EngineInfo& info);

/// Blocks of the manager's own pool, the layers' that see everything. Where there are none it has
/// no memory, and as many as could ever be asked for.
int32_t manager_blocks(const EngineInfo& info);
/// The other groups, in the plan's order; none where `info` names no groups.
std::vector<kv_cache::WindowPoolSpec> window_pools(const EngineInfo& info);
std::vector<scheduler::WindowGroupView> window_views(const EngineInfo& info);

/// Of the pool that info.num_blocks speaks of: its index in window_pools, or -1 for the manager's
/// own.
int shown_pool(const EngineInfo& info);

/// Of each group of the plan: its index in window_pools, or -1 for the manager's own pool.
std::vector<int> table_sources(const EngineInfo& info);

}  // namespace inflight::executor
