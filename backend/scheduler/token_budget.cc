#include "backend/scheduler/token_budget.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::scheduler {
namespace {

class Budget {
 public:
  Budget(Step& step, const EngineView& view, const Limits& limits)
      : step_(step), geometry_(view.cache.geometry), limits_(limits) {}

  void add_generating(const SequenceView& sequence, int32_t index) {
    if (left() == 0) return;
    step_.sequences.push_back({sequence.id, index, sequence.num_computed, 1, false, false});
    step_.num_tokens += 1;
    num_logits_ += 1;
    step_.num_generating += 1;
  }

  /// False if the prompt gets no token in this step, and so none behind it does.
  bool add_prompt(const SequenceView& sequence, int32_t index) {
    const int32_t remaining = sequence.prompt_len - sequence.num_computed;
    const int32_t num_tokens = chunk(sequence, remaining);
    if (num_tokens == 0) return false;
    step_.sequences.push_back({sequence.id, index, sequence.num_computed, num_tokens, true,
                               num_tokens == remaining, sequence.logits_of_prompt});
    step_.num_tokens += num_tokens;
    num_logits_ += step_.sequences.back().num_logits();
    is_closed_ = step_.sequences.back().num_logits() > 1;
    return true;
  }

 private:
  int32_t left() const { return limits_.max_num_tokens - step_.num_tokens; }
  bool has_prompt() const {
    return static_cast<int32_t>(step_.sequences.size()) > step_.num_generating;
  }

  int32_t chunk(const SequenceView& sequence, int32_t remaining) const {
    int32_t most = left();
    if (sequence.logits_of_prompt) {
      most = std::min({most, limits_.max_batch_size - num_logits_,
                       std::max(1, limits_.max_num_tokens - 1 - step_.num_tokens)});
    }
    if (is_closed_ || num_logits_ == limits_.max_batch_size) return 0;
    if (remaining <= most) return remaining;
    if (!limits_.enable_chunked_context && !sequence.logits_of_prompt) return 0;
    const int32_t first_position = sequence.num_computed;
    const int32_t border = geometry_.round_down(first_position + most);
    if (border > first_position) return border - first_position;
    return has_prompt() ? 0 : most;
  }

  Step& step_;
  const kv_cache::Geometry geometry_;
  const Limits& limits_;
  int32_t num_logits_ = 0;  // rows
  bool is_closed_ = false;  // to further prompts
};

}  // namespace

void assign_tokens(Step& step, Scratch& scratch, const EngineView& view, int32_t num_admissible,
                   const Limits& limits) {
  Budget budget(step, view, limits);
  const int32_t num_running = static_cast<int32_t>(view.running.size());
  std::vector<int32_t>& prompts = scratch.prompts;
  prompts.clear();
  for (int32_t i = 0; i < num_running; ++i) {
    const SequenceView& sequence = view.running[i];
    if (!sequence.is_generating()) {
      prompts.push_back(i);
    } else if (!sequence.is_complete()) {
      budget.add_generating(sequence, i);
    }
  }
  const auto runs_before = [&](int32_t a, int32_t b) {
    const int32_t priority_a = view.running[a].priority;
    const int32_t priority_b = view.running[b].priority;
    return priority_a != priority_b ? priority_a > priority_b : a < b;
  };
  if (!std::is_sorted(prompts.begin(), prompts.end(), runs_before))
    std::sort(prompts.begin(), prompts.end(), runs_before);

  // Both lists are in order of priority: merge them, running first among equals.
  size_t next_running = 0;
  int32_t next_waiting = 0;
  while (next_running < prompts.size() || next_waiting < num_admissible) {
    const bool from_running =
        next_waiting == num_admissible ||
        (next_running < prompts.size() &&
         view.running[prompts[next_running]].priority >= view.waiting[next_waiting].priority);
    if (from_running) {
      const int32_t index = prompts[next_running++];
      if (!budget.add_prompt(view.running[index], index)) break;
    } else {
      if (!budget.add_prompt(view.waiting[next_waiting], num_running + next_waiting)) break;
      step.num_admitted = ++next_waiting;
    }
  }
}

void check_fits_budget(int32_t prompt_len, const Limits& limits) {
  check(limits.enable_chunked_context || prompt_len <= limits.max_num_tokens, "prompt of ",
        prompt_len, " tokens exceeds max_num_tokens ", limits.max_num_tokens,
        " and chunked context is off");
}

}  // namespace inflight::scheduler
