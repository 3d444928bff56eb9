// What an engine was doing, for the log of one that has died or hangs: plain numbers, taken by the
// engine thread.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <vector>

#include "backend/executor/engine_state.h"
#include "backend/scheduler/step.h"

namespace inflight::executor {

struct StateDump {
  struct Row {
    RequestId id = 0;
    bool is_running = false;
    int priority = 0;
    int32_t prompt_len = 0;
    int32_t num_generated = 0;  // known; one more may be in flight
    int32_t max_new_tokens = 0;
    int32_t num_blocks = 0;
    int32_t num_steps_in_flight = 0;
  };

  int64_t iteration = 0;
  int32_t num_blocks = 0;
  int32_t num_free_blocks = 0;
  scheduler::Step step;   // the newest
  std::vector<Row> rows;  // running, then waiting: all, or the first of them
  size_t num_running = 0;
  size_t num_waiting = 0;
};

/// Fills `dump` anew, in the memory it has; `step` is the newest.
void dump_state(const EngineState& state, const scheduler::Step& step, StateDump& dump);

/// Several lines, one a request.
std::ostream& operator<<(std::ostream& out, const StateDump& dump);

}  // namespace inflight::executor
