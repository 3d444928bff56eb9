// Who may hold cache. Guaranteed-no-evict: a sequence is admitted only if it and all that run can
// grow to their greatest length with the blocks there are, so that none ever has to give any up.
#pragma once

#include <cstdint>

#include "backend/scheduler/limits.h"
#include "backend/scheduler/view.h"

namespace inflight::scheduler {

/// How many at the head of `view.waiting` may start to run now. Strictly in order: one that does
/// not fit keeps those behind it waiting, however small.
int32_t num_admissible(const EngineView& view, const Limits& limits);

/// Blocks that a sequence holds when it is as long as it may become.
int32_t worst_case_blocks(const kv_cache::Geometry& geometry, int32_t max_total_len);

/// Raises invalid_argument if the pool could not hold such a sequence even alone.
void check_fits_pool(int32_t max_total_len, const CacheView& cache);

}  // namespace inflight::scheduler
