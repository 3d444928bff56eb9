#include "backend/scheduler/token_budget.h"

#include <algorithm>

#include "backend/scheduler/whole_tiles.h"
#include "kernels/core/check.h"

namespace inflight::scheduler {
namespace {

/// Of the bound on a step's time: the rest is left to what the fit does not know.
constexpr double kShareOfBound = 0.9;

class Budget {
 public:
  /// `parts` has room for all that may be added.
  Budget(ScheduledSequence* parts, const EngineView& view, const Limits& limits)
      : parts_(parts),
        geometry_(view.cache.geometry),
        step_time_(view.step_time),
        limits_(limits),
        free_blocks_(view.cache.available_blocks()),
        left_(limits.max_num_tokens) {}

  int32_t num_parts() const { return num_parts_; }
  int32_t num_generating() const { return num_generating_; }
  int32_t num_tokens() const { return limits_.max_num_tokens - left_; }

  /// Before any prompt: a token for each that generates. Who reads its prompt goes into `prompts`.
  /// Thousands of rounds: all they change is in locals.
  void add_generating(std::span<const SequenceView> running, std::vector<int32_t>& prompts) {
    const int32_t num_running = static_cast<int32_t>(running.size());
    int32_t left = left_;
    int64_t free_blocks = free_blocks_;
    int64_t keys = 0;
    ScheduledSequence* part = parts_;
    for (int32_t i = 0; i < num_running; ++i) {
      const SequenceView& sequence = running[i];
      if (!sequence.is_generating()) {
        prompts.push_back(i);
        continue;
      }
      if (sequence.is_complete() || left == 0) continue;
      const int32_t needed = sequence.blocks_to(sequence.num_computed + 1, geometry_);
      if (needed > free_blocks) {
        // It waits for the blocks of one that was preempted, which a step in flight still names.
        check_internal(limits_.capacity_policy == CapacityPolicy::kMaxUtilization,
                       "no block left for ", "sequence ", sequence.id);
        continue;
      }
      free_blocks -= needed;
      --left;
      keys += sequence.num_computed + 1;
      part->id = sequence.id;
      part->index = i;
      part->first_position = sequence.num_computed;
      part->num_tokens = 1;
      part->is_prompt_chunk = part->is_last_chunk = part->logits_of_all = false;
      ++part;
    }
    num_generating_ = num_parts_ = num_logits_ = static_cast<int32_t>(part - parts_);
    generation_keys_ = keys;
    left_ = left;
    free_blocks_ = free_blocks;
  }

  /// After the generating ones, which the prompts beside them make late.
  void begin_prompts() {
    is_timed_ = limits_.bounds_step_time() && num_generating_ > 0;
    if (is_timed_) {
      const StepWork work{.num_tokens = num_generating_, .generation_keys = generation_keys_};
      ms_left_ = kShareOfBound * limits_.max_time_per_output_token_ms - step_time_.predict(work);
    }
  }

  /// False if the prompt gets no token in this step, and so none behind it does.
  bool add_prompt(const SequenceView& sequence, int32_t index) {
    const int32_t remaining = sequence.prompt_len - sequence.num_computed;
    const int32_t num_tokens = chunk(sequence, remaining);
    if (num_tokens == 0) return false;
    const ScheduledSequence& part = parts_[num_parts_++] = {sequence.id,
                                                            index,
                                                            sequence.num_computed,
                                                            num_tokens,
                                                            true,
                                                            num_tokens == remaining,
                                                            sequence.logits_of_prompt};
    left_ -= num_tokens;
    num_logits_ += part.num_logits();
    is_closed_ = part.num_logits() > 1;
    free_blocks_ -= sequence.blocks_to(sequence.num_computed + num_tokens, geometry_);
    if (is_timed_) {
      StepWork work;
      work.add_chunk(sequence.num_computed, num_tokens);
      ms_left_ -= step_time_.predict(work) - step_time_.ms_per_step;
    }
    return true;
  }

 private:
  bool has_prompt() const { return num_parts_ > num_generating_; }

  /// Tokens that the blocks held and free have room for.
  int32_t room(const SequenceView& sequence) const {
    const int64_t blocks = int64_t{sequence.num_blocks} + free_blocks_;
    return static_cast<int32_t>(std::clamp<int64_t>(
        blocks * geometry_.tokens_per_block() - sequence.num_computed, 0, left_));
  }

  /// At most `most` tokens that leave the others' tokens in time. A step's first prompt gets to the
  /// next border at least: it would starve beside those that take all the time there is.
  int32_t in_time(const SequenceView& sequence, int32_t most) const {
    if (!is_timed_) return most;
    const int32_t count = step_time_.tokens_within(ms_left_, sequence.num_computed, most);
    if (has_prompt()) return count;
    const int32_t to_border =
        geometry_.tokens_per_block() - geometry_.offset_in_block(sequence.num_computed);
    return std::max(count, std::min(most, to_border));
  }

  int32_t chunk(const SequenceView& sequence, int32_t remaining) const {
    if (is_closed_ || num_logits_ == limits_.max_batch_size) return 0;
    int32_t most = room(sequence);
    if (sequence.logits_of_prompt) {
      most = std::min({most, limits_.max_batch_size - num_logits_, std::max(1, left_ - 1)});
    }
    most = in_time(sequence, std::min(most, remaining));
    if (remaining <= most) return remaining;
    if (!sequence.may_be_cut(limits_.enable_chunked_context)) return 0;
    const int32_t first_position = sequence.num_computed;
    const int32_t border = geometry_.round_down(first_position + most);
    if (border > first_position) return border - first_position;
    return has_prompt() ? 0 : most;
  }

  ScheduledSequence* const parts_;
  const kv_cache::Geometry geometry_;
  const StepTime& step_time_;
  const Limits& limits_;
  int64_t free_blocks_;
  int32_t left_;  // tokens
  int32_t num_parts_ = 0;
  int32_t num_generating_ = 0;   // of them
  int64_t generation_keys_ = 0;  // of StepWork
  bool is_timed_ = false;
  double ms_left_ = 0.0;    // for prompts, if is_timed_
  int32_t num_logits_ = 0;  // rows
  bool is_closed_ = false;  // to further prompts
};

}  // namespace

void assign_tokens(Step& step, Scratch& scratch, const EngineView& view, int32_t num_admissible,
                   const Limits& limits) {
  const int32_t num_running = static_cast<int32_t>(view.running.size());
  // Not cleared before: what is written over need not be made first.
  step.sequences.resize(size_t{1} * num_running + num_admissible);
  step.num_admitted = 0;
  Budget budget(step.sequences.data(), view, limits);
  std::vector<int32_t>& prompts = scratch.prompts;
  prompts.clear();
  budget.add_generating(view.running, prompts);
  budget.begin_prompts();
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
  step.sequences.resize(budget.num_parts());
  step.num_tokens = budget.num_tokens();
  step.num_generating = budget.num_generating();
  // A static batch begins whole: who joins it is decided only once.
  if (limits.capacity_policy == CapacityPolicy::kStaticBatch) step.num_admitted = num_admissible;
  fill_tiles(step, view.running, view.turn, limits);
}

void check_fits_budget(int32_t prompt_len, const Limits& limits) {
  check(limits.enable_chunked_context || prompt_len <= limits.max_num_tokens, "prompt of ",
        prompt_len, " tokens exceeds max_num_tokens ", limits.max_num_tokens,
        " and chunked context is off");
}

}  // namespace inflight::scheduler
