// A request of the trace while a replica has it.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/kv_cache/reservation.h"
#include "backend/scheduler/view.h"

namespace inflight::simulation {

struct Sequence {
  static constexpr kv_cache::TableId kNoTable = -1;

  int64_t request = 0;  // in the trace
  int32_t priority = 0;
  int32_t prompt_len = 0;
  int32_t num_output = 0;  // after so many tokens it ends
  int32_t max_total_len = 0;
  std::vector<int32_t> tokens;  // prompt and generated; empty until somebody wants to know
  kv_cache::TableId table = kNoTable;
  int32_t num_computed = 0;  // after the steps in flight
  int32_t num_generated = 0;
  int32_t num_steps_in_flight = 0;  // that name it
  double newest_token = 0;          // when it came, s
  bool has_ended = false;

  scheduler::SequenceView view(int32_t num_blocks) const {
    return {.id = static_cast<uint64_t>(request),
            .priority = priority,
            .prompt_len = prompt_len,
            .num_computed = num_computed,
            .max_total_len = max_total_len,
            .num_blocks = num_blocks};
  }
};

}  // namespace inflight::simulation
