// Events of the cache as JSON, with the fields of TensorRT-LLM's LLM.get_kv_cache_events. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "backend/kv_cache/cache_events.h"

namespace inflight::kv_cache {

/// A list of {"event_id": `id_base` + id, "data": {"type": "created", "stored", "removed",
/// "updated" or "lost", ...}}.
std::string to_json(const CacheEvents& events, int64_t id_base = 0);

}  // namespace inflight::kv_cache
