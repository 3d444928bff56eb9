#include "backend/simulation/planning.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "backend/kv_cache/invariants.h"
#include "kernels/core/check.h"

namespace inflight::simulation {

Planner::Planner(const Trace& trace, int32_t tokens_per_block, int32_t num_blocks,
                 const scheduler::Limits& limits)
    : trace_(trace), limits_(limits), cache_(kv_cache::Geometry(tokens_per_block), num_blocks) {
  scheduler::validate(limits_);
}

void Planner::check_can_run(const TraceRequest& request) const {
  scheduler::check_can_run(request.prompt_len, request.prompt_len + request.max_output,
                           {cache_.geometry(), cache_.num_blocks(), cache_.num_free_blocks()},
                           limits_);
}

void Planner::add_waiting(std::unique_ptr<Sequence> sequence) {
  auto place = waiting_.end();
  while (place != waiting_.begin() && (*std::prev(place))->priority < sequence->priority) --place;
  waiting_.insert(place, std::move(sequence));
}

void Planner::make_views() {
  running_views_.clear();
  int32_t num_going_on = 0;
  for (const auto& sequence : running_) {
    running_views_.push_back(
        sequence->view(static_cast<int32_t>(cache_.block_table(sequence->table).size())));
    num_going_on += running_views_.back().is_complete() ? 0 : 1;
  }
  waiting_views_.clear();
  const auto num_shown =
      std::min<size_t>(waiting_.size(), std::max(0, limits_.max_running() - num_going_on));
  for (size_t i = 0; i < num_shown; ++i) waiting_views_.push_back(waiting_[i]->view(0));
}

bool Planner::plan(PlannedStep& next, std::vector<Sequence*>& admitted) {
  make_views();
  next.sequences.clear();
  scheduler::schedule(next.step, scratch_,
                      {.running = running_views_,
                       .waiting = waiting_views_,
                       .cache = {.geometry = cache_.geometry(),
                                 .num_blocks = cache_.num_blocks(),
                                 .free_blocks = cache_.num_free_blocks()}},
                      limits_);
  if (next.step.is_empty()) return false;
  admit(next.step.num_admitted, admitted);
  growths_.clear();
  for (const scheduler::ScheduledSequence& part : next.step.sequences) {
    Sequence& sequence = *running_[part.index];
    sequence.num_computed = part.first_position + part.num_tokens;
    ++sequence.num_steps_in_flight;
    next.sequences.push_back(&sequence);
    growths_.push_back({sequence.table, part.first_position, part.num_tokens});
  }
  std::optional<kv_cache::Reservation> reservation = cache_.reserve(growths_);
  check_internal(reservation.has_value(), "the KV pool has too few free blocks for ", next.step);
  next.reservation.emplace(std::move(*reservation));
  next.work = work_of(next);
  return true;
}

void Planner::admit(int32_t num_admitted, std::vector<Sequence*>& admitted) {
  for (int32_t i = 0; i < num_admitted; ++i) {
    Sequence& sequence = *waiting_.front();
    if (sequence.tokens.empty()) trace_.append_prompt(sequence.request, sequence.tokens);
    sequence.table = cache_.open({.tokens = {sequence.tokens, {}}});
    admitted.push_back(&sequence);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

StepWork Planner::work_of(const PlannedStep& planned) const {
  StepWork work{.num_rows = planned.step.num_tokens,
                .num_sequences = static_cast<int32_t>(planned.step.sequences.size())};
  for (const scheduler::ScheduledSequence& part : planned.step.sequences) {
    work.num_logits += part.num_logits();
    const int64_t first = part.first_position, count = part.num_tokens;
    if (part.is_prompt_chunk) {
      work.prompt_pairs += count * first + count * (count + 1) / 2;
    } else {
      work.generation_keys += first + 1;
    }
  }
  return work;
}

void Planner::commit(PlannedStep& step) {
  step.reservation->commit();
  step.reservation.reset();
  for (Sequence* sequence : step.sequences) --sequence->num_steps_in_flight;
}

void Planner::release_ended() {
  const auto first_ended = std::stable_partition(
      running_.begin(), running_.end(), [](const auto& sequence) { return !sequence->has_ended; });
  std::move(first_ended, running_.end(), std::back_inserter(retired_));
  running_.erase(first_ended, running_.end());
  std::erase_if(retired_, [this](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->num_steps_in_flight > 0) return false;
    cache_.release(sequence->table, {sequence->tokens, {}});
    return true;
  });
}

int64_t Planner::running_prompt_tokens() const {
  int64_t count = 0;
  for (const auto& sequence : running_)
    count += std::max(0, sequence->prompt_len - sequence->num_computed);
  return count;
}

CacheLevels Planner::cache_levels() const {
  return {cache_.num_used_blocks(), 0, cache_.prefix_statistics().hit_tokens};
}

void Planner::check_invariants() const { kv_cache::check_invariants(cache_.snapshot()); }

}  // namespace inflight::simulation
