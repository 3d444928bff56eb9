#include "backend/planning/planner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "backend/scheduler/admission_order.h"
#include "backend/scheduler/preemption.h"
#include "kernels/core/check.h"

namespace inflight::planning {

using scheduler::SequenceView;

namespace {

/// A sequence begins with room for so many generated tokens, if it may have them: memory that grows
/// in small steps comes from all over.
constexpr int32_t kTokensAtStart = 512;

}  // namespace

Planner::Planner(const scheduler::Limits& limits, kv_cache::KvCacheManager& cache)
    : limits_(limits), cache_(cache), waiting_(ledger_), running_(limits_, cache_, cache_view()) {
  scheduler::validate(limits_);
}

void Planner::arrive(PlannedSequence& sequence, std::string_view tenant) {
  sequence.tenant_ = ledger_.enter(tenant);
  waiting_.push(sequence);
}

void Planner::measured(const scheduler::StepWork& work, double ms) {
  if (limits_.bounds_step_time()) step_times_.observe(work, ms);
}

int32_t Planner::num_blocks(const PlannedSequence& sequence) const {
  return cache_.num_held_blocks(sequence.table);
}

scheduler::CacheView Planner::cache_view() {
  group_views_.clear();
  for (const kv_cache::WindowPool& pool : cache_.window_pools()) {
    int32_t num_leaving = 0;
    for (const PlannedSequence* sequence : leaving_)
      num_leaving += sequence->is_running() ? pool.num_held_blocks(sequence->table) : 0;
    group_views_.push_back({pool.window(), pool.num_blocks(), num_leaving});
  }
  int32_t num_leaving_blocks = 0;
  for (const PlannedSequence* sequence : leaving_)
    num_leaving_blocks += sequence->is_running() ? num_blocks(*sequence) : 0;
  return {.geometry = cache_.geometry(),
          .num_blocks = cache_.num_blocks(),
          .free_blocks = cache_.num_free_blocks(),
          .evictable_blocks = cache_.num_cached_blocks(),
          .leaving_blocks = num_leaving_blocks,
          .windows = group_views_};
}

bool Planner::plan(PlannedStep& next, bool any_step_in_flight) {
  next.sequences.clear();
  next.in_flight_tokens.clear();
  next.started.clear();
  next.allocated.clear();
  next.work = {};
  ++num_plans_;
  preempt();
  const scheduler::CacheView cache = cache_view();
  choose_candidates(cache);
  scheduler::schedule_admitted(next.step, scratch_,
                               {.running = running_.views(),
                                .waiting = candidate_views_,
                                .cache = cache,
                                .step_time = step_times_.fit(),
                                .turn = num_plans_},
                               static_cast<int32_t>(candidate_views_.size()), limits_);
  if (next.step.is_empty()) {
    check_internal(is_idle() || any_step_in_flight, "nothing was scheduled with ", running_.size(),
                   " requests running and ", num_waiting(), " waiting");
    return false;
  }
  for (int32_t i = 0; running_.num_needing_newest() > 0 && i < next.step.num_generating; ++i) {
    const int32_t place = next.step.sequences[i].index;
    if (running_[place].needs_newest_token() && running_.has_token_in_flight(place)) return false;
  }
  count_passes(next.step.num_admitted);
  for (int32_t i = 0; i < next.step.num_admitted; ++i) open(candidates_[i], next);

  running_.advance(next.step, growths_, next.in_flight_tokens, next.sequences, next.work, ledger_);
  std::optional<kv_cache::Reservation> reservation = cache_.reserve(growths_);
  check_internal(reservation.has_value(), "the KV pool has too few free blocks for ", next.step);
  next.reservation.emplace(std::move(*reservation));
  running_.advanced();
  for (size_t i = next.step.num_generating; i < next.sequences.size(); ++i) {
    PlannedSequence& sequence = *next.sequences[i];
    const int32_t held = num_blocks(sequence);
    if (held == sequence.num_context_blocks_ || sequence.num_preemptions_ > 0) continue;
    next.allocated.push_back({&sequence, held - sequence.num_context_blocks_,
                              std::exchange(sequence.num_reused_blocks_, 0)});
    sequence.num_context_blocks_ = held;
  }
  // Last: what is evicted for it may be what others were matched with.
  if (coming_ != nullptr) bring_ahead(*coming_);
  newest_prompt_tokens_ = next.work.num_prompt_tokens;
  return true;
}

void Planner::commit(PlannedStep& step) {
  step.reservation->commit([&](int32_t i) { return step.sequences[i]->tokens(); });
  step.reservation.reset();
}

void Planner::give_back(PlannedStep& step) {
  step.reservation.reset();
  running_.forget_views();  // they hold fewer blocks
}

void Planner::forget_cached() {
  chosen_.clear();
  for (size_t i = 0; i < running_.size(); ++i) {
    const PlannedSequence& sequence = running_[i];
    const int32_t num_tokens = cache_.num_cached_tokens(sequence.table);
    if (!sequence.has_ended_ && num_blocks(sequence) < cache_.geometry().num_blocks(num_tokens))
      chosen_.push_back(static_cast<int32_t>(i));
  }
  pause(chosen_);
  release_paused();
  cache_.forget_cached();
}

void Planner::preempt() {
  running_.refresh(cache_view());
  if (limits_.capacity_policy != scheduler::CapacityPolicy::kMaxUtilization) return;
  while (true) {
    const scheduler::EngineView view{
        .running = running_.views(), .waiting = {}, .cache = cache_view()};
    scheduler::choose_preempted(chosen_, view, limits_);
    if (chosen_.empty()) return;
    pause(chosen_);
    release_paused();  // of blocks that others share fewer come free than it held: look again
  }
}

void Planner::pause(std::span<const int32_t> chosen) {
  for (const int32_t index : chosen) {
    PlannedSequence& sequence = running_[index];
    ++sequence.num_preemptions_;
    sequence.is_pausing_ = true;
    leaving_.push_back(&sequence);
    ++num_pausing_;
    ++num_preemptions_;
  }
  places_.assign(chosen.begin(), chosen.end());
  std::ranges::sort(places_);
  running_.remove(places_);
}

void Planner::release_paused() {
  std::erase_if(leaving_, [this](PlannedSequence* sequence) {
    if (!sequence->is_pausing_ || num_steps_in_flight(*sequence) > 0) return false;
    sequence->is_pausing_ = false;
    cache_.release(std::exchange(sequence->table, PlannedSequence::kNoTable), sequence->tokens());
    // All of its tokens are known now.
    sequence->context_len_ =
        sequence->prompt_len() + static_cast<int32_t>(sequence->generated_.size());
    waiting_.push_preempted(*sequence);
    --num_pausing_;
    return true;
  });
}

const PlannedSequence* Planner::running_twin(const PlannedSequence& sequence) const {
  const uint64_t id = sequence.facts_.twin_id;
  if (id == 0 || !cache_.reuses_blocks()) return nullptr;
  return running_.find(id);
}

bool Planner::waits_for_twin(const PlannedSequence& sequence) const {
  if (const PlannedSequence* twin = running_twin(sequence))
    return cache_.num_cached_tokens(twin->table) < twin->prompt_len();
  return sequence.facts_.twin_id != 0 && cache_.reuses_blocks() &&
         std::ranges::any_of(candidates_, [&](const Candidate& candidate) {
           return candidate.sequence->id() == sequence.facts_.twin_id;
         });
}

SequenceView Planner::match(Candidate& candidate) {
  PlannedSequence& sequence = *candidate.sequence;
  SequenceView view = sequence.view();
  if (view.logits_of_prompt) return view;  // of tokens that are found there would be none
  if (sequence.matched_in_plan_ != num_plans_) {
    const kv_cache::PrefixMatch found = cache_.match(
        sequence.tokens(), sequence.facts_.prefix_scope, twin_table(sequence), &candidate.lookup);
    sequence.num_hits_ = found.num_tokens;
    sequence.num_used_blocks_ = found.num_used_blocks;
    sequence.num_host_blocks_ = found.num_host_blocks;
    sequence.matched_in_plan_ = num_plans_;
  }
  view.num_computed = sequence.num_hits_;
  view.num_blocks = sequence.num_used_blocks_;
  return view;
}

void Planner::show_next(WaitingQueue::Round& round) {
  const size_t most = cache_.reuses_blocks() ? scheduler::kLookahead : 1;
  while (window_.size() < most) {
    PlannedSequence* const sequence = round.next();
    if (sequence == nullptr) return;
    shown_.push_back(sequence);
    window_.push_back({sequence, static_cast<int32_t>(shown_.size()) - 1, {}});
    window_views_.push_back(sequence->view());
    if (window_.size() < 2) continue;  // who is alone is not chosen among others
    for (size_t i = window_.size() == 2 ? 0 : window_.size() - 1; i < window_.size(); ++i)
      window_views_[i].num_computed = hits_to_choose_by(window_[i]);
  }
}

int32_t Planner::hits_to_choose_by(Candidate& candidate) {
  PlannedSequence& sequence = *candidate.sequence;
  // Old ones will do; the one chosen is matched anew.
  if (sequence.num_hits_ == PlannedSequence::kUnknown) {
    sequence.num_hits_ =
        sequence.lacks_context_logits()
            ? 0
            : cache_.num_whole_tokens(sequence.tokens(), sequence.facts_.prefix_scope,
                                      candidate.lookup);
  }
  return sequence.num_hits_;
}

void Planner::choose_candidates(const scheduler::CacheView& cache) {
  candidates_.clear();
  candidate_views_.clear();
  coming_ = nullptr;
  if (waiting_.empty()) return;
  scheduler::Admission admission(running_.claims(), cache, limits_);
  if (!admission.has_place()) return;
  // No more than a step may have tokens for; a static batch is chosen whole.
  const bool all_at_once = limits_.capacity_policy == scheduler::CapacityPolicy::kStaticBatch;
  int64_t tokens_left = limits_.max_num_tokens;
  window_.clear();
  window_views_.clear();
  shown_.clear();
  WaitingQueue::Round round(waiting_);
  show_next(round);
  // Matches grow old: one a step is renewed.
  if (window_.size() > 1) {
    const size_t i = num_plans_ % window_.size();
    window_[i].sequence->num_hits_ = PlannedSequence::kUnknown;
    window_views_[i].num_computed = hits_to_choose_by(window_[i]);
  }
  while (!window_.empty() && (all_at_once || tokens_left > 0)) {
    const int32_t chosen = scheduler::first_by_hits(window_views_);
    Candidate& candidate = window_[chosen];
    if (all_at_once || !waits_for_twin(*candidate.sequence)) {
      const SequenceView view = match(candidate);
      if (!admission.admit(view)) break;
      if (!all_at_once && would_delay_generation(*candidate.sequence)) {
        coming_ = candidate.sequence;
        break;
      }
      candidates_.push_back(candidate);
      candidate_views_.push_back(view);
      tokens_left -= view.prompt_len - view.num_computed;
    }
    window_.erase(window_.begin() + chosen);
    window_views_.erase(window_views_.begin() + chosen);
    show_next(round);
  }
}

bool Planner::would_delay_generation(const PlannedSequence& sequence) const {
  const int32_t num_blocks = sequence.num_host_blocks_;
  // Where none came although some were to, waiting would not help.
  if (num_blocks == 0 || num_blocks >= sequence.num_host_blocks_left_) return false;
  if (cache_.num_copies_to_bring(num_blocks) <= cache_.copies_beside_step(newest_prompt_tokens_))
    return false;
  return std::ranges::any_of(running_.views(), [](const SequenceView& view) {
    return view.is_generating() && !view.is_complete();
  });
}

void Planner::bring_ahead(PlannedSequence& sequence) {
  sequence.num_host_blocks_left_ = sequence.num_host_blocks_;
  cache_.bring_ahead(sequence.tokens(), sequence.facts_.prefix_scope,
                     cache_.copies_beside_step(newest_prompt_tokens_));
}

void Planner::count_passes(int32_t num_admitted) {
  // Those shown before one that is admitted and not admitted before it.
  int32_t first_waiting = 0;
  for (int32_t i = 0; i < num_admitted; ++i) {
    for (int32_t place = first_waiting; place < candidates_[i].place; ++place) {
      if (shown_[place] != nullptr) ++shown_[place]->num_passes_;
    }
    shown_[candidates_[i].place] = nullptr;
    const auto num_shown = static_cast<int32_t>(shown_.size());
    while (first_waiting < num_shown && shown_[first_waiting] == nullptr) ++first_waiting;
  }
}

void Planner::open(const Candidate& candidate, PlannedStep& next) {
  PlannedSequence& sequence = *candidate.sequence;
  sequence.generated_.reserve(std::min(sequence.max_new_tokens(), kTokensAtStart));
  waiting_.erase(sequence);
  ledger_.starts(sequence.tenant_);
  sequence.num_host_blocks_left_ = std::numeric_limits<int32_t>::max();
  sequence.table = cache_.open({.tokens = sequence.tokens(),
                                .scope = sequence.facts_.prefix_scope,
                                .retention = sequence.facts_.retention,
                                .may_reuse = !sequence.lacks_context_logits(),
                                .twin = twin_table(sequence),
                                .lookup = &candidate.lookup});
  sequence.num_context_blocks_ = static_cast<int32_t>(cache_.block_table(sequence.table).size());
  sequence.num_reused_blocks_ =
      cache_.geometry().num_blocks(cache_.num_cached_tokens(sequence.table));
  running_.add(sequence);
  if (!sequence.has_started_) next.started.push_back(&sequence);
  sequence.has_started_ = true;
}

void Planner::end(PlannedSequence& sequence) {
  check_internal(!sequence.has_ended_, "sequence ", sequence.id(), " has ended before");
  sequence.has_ended_ = true;
  if (sequence.links_.lane != nullptr) {
    waiting_.erase(sequence);
    leaving_.push_back(&sequence);
  } else if (std::exchange(sequence.is_pausing_, false)) {
    --num_pausing_;  // it ended with the step that it was in
  } else {
    ended_.push_back(&sequence);
  }
  ledger_.leave(sequence.tenant_);
}

void Planner::retire() {
  if (ended_.empty()) return;
  places_.clear();
  for (const PlannedSequence* sequence : ended_) places_.push_back(running_.place_of(*sequence));
  ended_.clear();
  std::ranges::sort(places_);
  for (const int32_t place : places_) leaving_.push_back(&running_[place]);
  running_.remove(places_);
}

void Planner::release(std::vector<PlannedSequence*>& gone) {
  retire();
  std::erase_if(leaving_, [&](PlannedSequence* sequence) {
    if (!sequence->has_ended_ || num_steps_in_flight(*sequence) > 0) return false;
    if (sequence->table != PlannedSequence::kNoTable)
      cache_.release(sequence->table, sequence->tokens());
    gone.push_back(sequence);
    return true;
  });
  release_paused();
}

}  // namespace inflight::planning
