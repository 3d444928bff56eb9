#include "backend/planning/planned_sequence.h"

#include <algorithm>

namespace inflight::planning {

scheduler::SequenceView PlannedSequence::view() const {
  return {.id = id(),
          .priority = priority(),
          .prompt_len = context_len_,
          .max_total_len = prompt_len() + max_new_tokens(),
          // Rows that have gone out need not be made again.
          .logits_of_prompt = lacks_context_logits(),
          .num_preemptions = num_preemptions_,
          .num_passes = num_passes_};
}

int32_t PlannedSequence::count_new_prompt_tokens(int32_t first_position, int32_t num_tokens) {
  const int32_t end = std::min(first_position + num_tokens, prompt_len());
  const int32_t before = std::max(num_prompt_tokens_run_, std::min(first_position, end));
  num_prompt_tokens_run_ = std::max(num_prompt_tokens_run_, end);
  return num_prompt_tokens_run_ - std::min(before, num_prompt_tokens_run_);
}

}  // namespace inflight::planning
