// Where the engine's statistics are read off: the newest step, the planner's and the cache's books.
#pragma once

#include <cstdint>

#include "backend/executor/engine.h"
#include "backend/executor/engine_state.h"
#include "backend/scheduler/step.h"

namespace inflight::executor {

/// The step that was committed last.
void count_step(const scheduler::Step& step, EngineStats& stats);

/// What planner and cache say now. `shown_pool`: the window pool whose blocks are told, -1 for the
/// cache's own (cache_groups.h); `block_bytes`: of a block in all layers.
void take_statistics(const EngineState& state, int shown_pool, int64_t block_bytes,
                     EngineStats& stats);

}  // namespace inflight::executor
