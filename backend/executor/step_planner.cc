#include "backend/executor/step_planner.h"

#include <algorithm>
#include <utility>

#include "backend/executor/clock.h"
#include "kernels/core/check.h"

namespace inflight::executor {

StepPlanner::StepPlanner(const scheduler::Limits& limits, EngineState& state, Inbox& inbox,
                         ResponseQueue& responses)
    : limits_(limits), state_(state), inbox_(inbox), responses_(responses) {
  scheduler::validate(limits_);
}

void StepPlanner::make_views() {
  running_views_.clear();
  int num_going_on = 0;
  for (const auto& sequence : state_.running) {
    const auto num_blocks = static_cast<int32_t>(state_.cache.block_table(sequence->table).size());
    running_views_.push_back(sequence->view(num_blocks));
    num_going_on += running_views_.back().is_complete() ? 0 : 1;
  }
  waiting_views_.clear();
  const auto num_shown =
      std::min<size_t>(state_.waiting.size(), std::max(0, limits_.max_running() - num_going_on));
  for (size_t i = 0; i < num_shown; ++i) waiting_views_.push_back(state_.waiting[i]->view(0));
}

bool StepPlanner::plan() {
  make_views();
  StepInFlight& next = state_.steps.planned();
  next.sequences.clear();
  next.in_flight_tokens.clear();
  scheduler::schedule(next.step, scratch_,
                      {.running = running_views_,
                       .waiting = waiting_views_,
                       .cache = {.geometry = state_.cache.geometry(),
                                 .num_blocks = state_.cache.num_blocks(),
                                 .free_blocks = state_.cache.num_free_blocks(),
                                 .evictable_blocks = state_.cache.num_cached_blocks()}},
                      limits_);
  if (next.step.is_empty()) {
    check_internal(state_.is_idle() || !state_.retired.empty() || state_.steps.any_in_flight(),
                   "nothing was scheduled with ", state_.running.size(), " requests running and ",
                   state_.waiting.size(), " waiting");
    return false;
  }
  for (int32_t i = 0; i < next.step.num_generating; ++i) {
    const Sequence& sequence = *state_.running[next.step.sequences[i].index];
    if (sequence.needs_newest_token() && sequence.has_token_in_flight()) return false;
  }
  admit(next.step.num_admitted);
  growths_.clear();
  int32_t num_logits = 0;  // rows
  for (const scheduler::ScheduledSequence& part : next.step.sequences) {
    Sequence& sequence = *state_.running[part.index];
    num_logits += part.num_logits();
    next.in_flight_tokens.push_back(sequence.has_token_in_flight() ? sequence.row() : -1);
    next.sequences.push_back(&sequence);
    sequence.scheduled(part, num_logits - 1);
    growths_.push_back({sequence.table, part.first_position, part.num_tokens});
  }
  std::optional<kv_cache::Reservation> reservation = state_.cache.reserve(growths_);
  check_internal(reservation.has_value(), "the KV pool has too few free blocks for ", next.step);
  next.reservation.emplace(std::move(*reservation));
  count_context_blocks(next);
  return true;
}

void StepPlanner::count_context_blocks(const StepInFlight& planned) {
  for (size_t i = planned.step.num_generating; i < planned.sequences.size(); ++i) {
    Sequence& sequence = *planned.sequences[i];
    const auto held = static_cast<int32_t>(state_.cache.block_table(sequence.table).size());
    if (held == sequence.num_context_blocks) continue;
    responses_.allocated(*sequence.channel, held - sequence.num_context_blocks);
    sequence.num_context_blocks = held;
  }
}

void StepPlanner::admit(int num_admitted) {
  const int64_t now_ns = now_in_ns();
  for (int i = 0; i < num_admitted; ++i) {
    Sequence& sequence = *state_.waiting.front();
    sequence.table = state_.cache.open({.tokens = sequence.tokens()});
    state_.running.push_back(std::move(state_.waiting.front()));
    state_.waiting.pop_front();
    inbox_.left_queue();
    responses_.started(*sequence.channel, now_ns);
  }
}

}  // namespace inflight::executor
