// Keys and values of the start of a sequence, carried from one engine to another: what an engine
// that only reads prompts makes, one that only generates goes on from. Engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/executor/model_executor.h"
#include "backend/kv_cache/kv_cache_manager.h"

namespace inflight::executor {

/// What two engines must have in common to understand each other's blocks: format, shape of a
/// block, checkpoint.
std::string cache_layout(const plan::EngineFile& engine);

/// Of `token_ids` as many leading ones as the cache holds, without the last, which it never
/// matches; none if it holds none of them. Takes no block for longer than the call. Raises
/// resource_exhausted if a block of the pool is needed and none is free, unsupported where layers
/// see windows.
ExportedPrefix export_prefix(kv_cache::KvCacheManager& cache, ModelExecutor& executor,
                             const EngineInfo& info, std::span<const int32_t> token_ids,
                             const kv_cache::PrefixScope& scope);

/// Puts it into the cache, where prompts that begin with its tokens find it until it is evicted.
/// Raises invalid_argument if it is of another layout or size, resource_exhausted if the pool has
/// not enough blocks that can be evicted.
void import_prefix(kv_cache::KvCacheManager& cache, ModelExecutor& executor, const EngineInfo& info,
                   const ExportedPrefix& prefix, const kv_cache::PrefixScope& scope);

}  // namespace inflight::executor
