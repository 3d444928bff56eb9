// The bounds and the policy of a Step, fixed at load.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/check.h"

namespace inflight::scheduler {

/// Who may hold cache (capacity.h).
enum class CapacityPolicy {
  kGuaranteedNoEvict,  // who is admitted can grow to its greatest length: nobody is preempted
  kMaxUtilization,     // admitted while there are blocks; when they run out, some are preempted
  kStaticBatch,        // as guaranteed, but a batch runs to its end before the next begins
};

struct Limits {
  int32_t max_batch_size = 1;          // sequences that run at once; rows of logits in a step
  int32_t max_num_tokens = 1;          // tokens in a step
  bool enable_chunked_context = true;  // false: a prompt runs whole in one step
  CapacityPolicy capacity_policy = CapacityPolicy::kGuaranteedNoEvict;
  /// Under kMaxUtilization: one preempted so often is preempted no more.
  int32_t max_preemptions = 4;
  /// Milliseconds that a step with generating sequences may take, as far as prompts decide it; 0:
  /// no bound, a step takes all the tokens there is room for.
  double max_time_per_output_token_ms = 0.0;
  int32_t max_steps_in_flight = 1;  // planned and not committed, the one being planned included
  int32_t tile_rows = 0;  // rows that a step's products cost together (whole_tiles.h); 0: one

  /// Sequences that may run at once, complete ones aside: each must be sure of a token in every
  /// step.
  int32_t max_running() const { return std::min(max_batch_size, max_num_tokens); }
  bool bounds_step_time() const { return max_time_per_output_token_ms > 0.0; }
};

inline void validate(const Limits& limits) {
  check(limits.max_batch_size >= 1, "max_batch_size ", limits.max_batch_size, " < 1");
  check(limits.max_num_tokens >= 1, "max_num_tokens ", limits.max_num_tokens, " < 1");
  check(limits.max_preemptions >= 0, "max_preemptions ", limits.max_preemptions, " < 0");
  check(limits.tile_rows >= 0, "tile_rows ", limits.tile_rows, " < 0");
  check(limits.max_time_per_output_token_ms >= 0.0, "max_time_per_output_token_ms ",
        limits.max_time_per_output_token_ms, " < 0");
  check(!limits.bounds_step_time() || limits.enable_chunked_context,
        "max_time_per_output_token_ms ", limits.max_time_per_output_token_ms,
        " needs enable_chunked_context: a prompt that runs whole takes what it takes");
}

}  // namespace inflight::scheduler
