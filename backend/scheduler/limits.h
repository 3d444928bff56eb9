// The bounds of a Step, fixed at load.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/check.h"

namespace inflight::scheduler {

struct Limits {
  int32_t max_batch_size = 1;          // sequences that run at once; rows of logits in a step
  int32_t max_num_tokens = 1;          // tokens in a step
  bool enable_chunked_context = true;  // false: a prompt runs whole in one step

  /// Sequences that may run at once, complete ones aside: each must be sure of a token in every
  /// step.
  int32_t max_running() const { return std::min(max_batch_size, max_num_tokens); }
};

inline void validate(const Limits& limits) {
  check(limits.max_batch_size >= 1, "max_batch_size ", limits.max_batch_size, " < 1");
  check(limits.max_num_tokens >= 1, "max_num_tokens ", limits.max_num_tokens, " < 1");
}

}  // namespace inflight::scheduler
