// Composes the two questions of a step: who may hold cache (capacity.h) and how many tokens each
// gets (token_budget.h). Pure and deterministic: no clock, no state, no engine types.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/scheduler/limits.h"
#include "backend/scheduler/step.h"
#include "backend/scheduler/view.h"

namespace inflight::scheduler {

/// Memory that `schedule` uses again in the next step; holds no decision.
struct Scratch {
  std::vector<int32_t> prompts;  // indices of running sequences that still read their prompt
};

/// Writes the next step into `step` (its vectors are used again). An empty step means that there is
/// nothing to run.
void schedule(Step& step, Scratch& scratch, const EngineView& view, const Limits& limits);

/// The same where the first `num_admissible` of `view.waiting` are known to be, and alone may start
/// to run.
void schedule_admitted(Step& step, Scratch& scratch, const EngineView& view, int32_t num_admissible,
                       const Limits& limits);

/// For the door: raises invalid_argument, naming value and limit, if a sequence of these lengths
/// could never run, whatever else does.
void check_can_run(int32_t prompt_len, int32_t max_total_len, const CacheView& cache,
                   const Limits& limits);

}  // namespace inflight::scheduler
