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

/// Sequences lie all over memory: each is asked for while so many before it are looked at.
constexpr size_t kAhead = 12;
/// A sequence begins with room for so many generated tokens, if it may have them: memory that grows
/// in small steps comes from all over.
constexpr int32_t kTokensAtStart = 512;

}  // namespace

Planner::Planner(const scheduler::Limits& limits, kv_cache::KvCacheManager& cache)
    : limits_(limits), cache_(cache), waiting_(ledger_), claims_(cache_view(), limits_) {
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

void Planner::update_running_views() {
  if (!std::exchange(are_views_stale_, false)) return;
  claims_ = {cache_view(), limits_};
  for (size_t i = 0; i < running_.size(); ++i) {
    running_views_[i] = running_[i]->view(num_blocks(*running_[i]));
    claims_.add(running_views_[i]);
    // Its rows go out when the step has ended, which nobody tells here.
    are_views_stale_ |= running_views_[i].logits_of_prompt;
  }
}

void Planner::check_kept() {
  if (are_views_stale_) return;
  scheduler::RunningClaims claims(cache_view(), limits_);
  for (size_t i = 0; i < running_.size(); ++i) {
    const PlannedSequence& sequence = *running_[i];
    check_internal(running_views_[i] == sequence.view(num_blocks(sequence)), "sequence ",
                   sequence.id(), " is not what the scheduler is shown");
    check_internal(place_of(sequence) == static_cast<int32_t>(i), "sequence ", sequence.id(),
                   " is not at its place");
    claims.add(running_views_[i]);
  }
  check_internal(claims == claims_, "the sums of ", running_.size(),
                 " running sequences are not theirs");
}

int32_t Planner::place_of(const PlannedSequence& sequence) const {
  // Lists only shorten between steps, so it is there or before.
  int32_t place = std::min(sequence.place_, static_cast<int32_t>(running_.size()) - 1);
  while (place >= 0 && running_[place] != &sequence) --place;
  check_internal(place >= 0, "sequence ", sequence.id(), " does not run");
  return place;
}

void Planner::stop_running(std::span<const int32_t> places) {
  if (places.empty()) return;
  auto to = running_.begin() + places.front();
  auto view_to = running_views_.begin() + places.front();
  for (size_t i = 0; i < places.size(); ++i) {
    const int32_t place = places[i];
    num_needing_newest_ -= running_[place]->needs_newest_token() ? 1 : 0;
    claims_.remove(running_views_[place]);
    const size_t end = i + 1 < places.size() ? places[i + 1] : running_.size();
    to = std::copy(running_.begin() + place + 1, running_.begin() + end, to);
    view_to = std::copy(running_views_.begin() + place + 1, running_views_.begin() + end, view_to);
  }
  running_.resize(to - running_.begin());
  running_views_.resize(view_to - running_views_.begin());
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
                               {.running = running_views_,
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
  for (int32_t i = 0; num_needing_newest_ > 0 && i < next.step.num_generating; ++i) {
    const PlannedSequence& sequence = *running_[next.step.sequences[i].index];
    if (sequence.needs_newest_token() && sequence.has_token_in_flight()) return false;
  }
  count_passes(next.step.num_admitted);
  for (int32_t i = 0; i < next.step.num_admitted; ++i) open(candidates_[i], next);

  advance(next);
  std::optional<kv_cache::Reservation> reservation = cache_.reserve(growths_);
  check_internal(reservation.has_value(), "the KV pool has too few free blocks for ", next.step);
  next.reservation.emplace(std::move(*reservation));
  for (const int32_t index : changing_) {
    running_views_[index].num_blocks = num_blocks(*running_[index]);
    claims_.add(running_views_[index]);
  }
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

void Planner::advance(PlannedStep& next) {
  const size_t count = next.step.sequences.size();
  next.sequences.resize(count);
  next.in_flight_tokens.resize(count);
  growths_.resize(count);
  changing_.clear();
  const int32_t tokens_per_block = cache_.geometry().tokens_per_block();
  // Thousands of rounds: what is looked up each time is looked up here.
  const scheduler::ScheduledSequence* const parts = next.step.sequences.data();
  PlannedSequence* const* const running = running_.data();
  PlannedSequence** const sequences = next.sequences.data();
  SequenceView* const views = running_views_.data();
  int32_t* const in_flight_tokens = next.in_flight_tokens.data();
  kv_cache::Growth* const growths = growths_.data();
  const auto advance_part = [&](size_t i, int32_t row) -> const PlannedSequence& {
    const scheduler::ScheduledSequence& part = parts[i];
    PlannedSequence& sequence = *running[part.index];
    in_flight_tokens[i] = sequence.has_token_in_flight() ? sequence.row_ : -1;
    sequences[i] = &sequence;
    const int32_t num_computed = part.first_position + part.num_tokens;
    sequence.row_ = row;
    sequence.place_ = part.index;
    sequence.num_computed_ = num_computed;
    ++sequence.num_steps_in_flight;
    growths[i] = {sequence.table, part.first_position, part.num_tokens};
    SequenceView& view = views[part.index];
    if (num_computed > view.num_blocks * tokens_per_block ||
        num_computed == kv_cache::max_cached_tokens(view.max_total_len)) {
      claims_.remove(view);
      changing_.push_back(part.index);
    }
    view.num_computed = num_computed;
    return sequence;
  };
  const size_t num_generating = next.step.num_generating;
  next.work.num_tokens = static_cast<int32_t>(num_generating);
  int64_t keys = 0;
  // Charged together, as neighbours are often of one tenant.
  scheduler::TenantId tenant = -1;
  int64_t num_of_tenant = 0;
  const auto charge = [&] {
    if (num_of_tenant > 0)
      ledger_.charge(tenant, num_of_tenant * scheduler::ServiceLedger::kGeneratedWeight);
  };
  for (size_t i = 0; i < num_generating; ++i) {
    if (i + kAhead < num_generating) running[parts[i + kAhead].index]->prefetch();
    const PlannedSequence& sequence = advance_part(i, static_cast<int32_t>(i));
    keys += sequence.num_computed_;
    if (sequence.tenant_ != tenant) {
      charge();
      tenant = sequence.tenant_;
      num_of_tenant = 0;
    }
    ++num_of_tenant;
  }
  charge();
  next.work.generation_keys = keys;
  auto num_logits = static_cast<int32_t>(num_generating);  // rows
  for (size_t i = num_generating; i < count; ++i) {
    const scheduler::ScheduledSequence& part = parts[i];
    num_logits += part.num_logits();
    const PlannedSequence& sequence = advance_part(i, num_logits - 1);
    next.work.add_chunk(part.first_position, part.num_tokens);
    ledger_.charge(sequence.tenant_, part.num_tokens);
  }
}

void Planner::commit(PlannedStep& step) {
  step.reservation->commit([&](int32_t i) { return step.sequences[i]->tokens(); });
  step.reservation.reset();
  for (PlannedSequence* sequence : step.sequences) --sequence->num_steps_in_flight;
}

void Planner::give_back(PlannedStep& step) {
  step.reservation.reset();
  for (PlannedSequence* sequence : step.sequences) --sequence->num_steps_in_flight;
  are_views_stale_ = true;  // they hold fewer blocks
}

void Planner::forget_cached() {
  chosen_.clear();
  for (size_t i = 0; i < running_.size(); ++i) {
    const PlannedSequence& sequence = *running_[i];
    const int32_t num_tokens = cache_.num_cached_tokens(sequence.table);
    if (!sequence.has_ended_ && num_blocks(sequence) < cache_.geometry().num_blocks(num_tokens))
      chosen_.push_back(static_cast<int32_t>(i));
  }
  pause(chosen_);
  release_paused();
  cache_.forget_cached();
}

void Planner::preempt() {
  update_running_views();
  if (limits_.capacity_policy != scheduler::CapacityPolicy::kMaxUtilization) return;
  while (true) {
    const scheduler::EngineView view{
        .running = running_views_, .waiting = {}, .cache = cache_view()};
    scheduler::choose_preempted(chosen_, view, limits_);
    if (chosen_.empty()) return;
    pause(chosen_);
    release_paused();  // of blocks that others share fewer come free than it held: look again
  }
}

void Planner::pause(std::span<const int32_t> chosen) {
  for (const int32_t index : chosen) {
    PlannedSequence& sequence = *running_[index];
    ++sequence.num_preemptions_;
    sequence.is_pausing_ = true;
    leaving_.push_back(&sequence);
    ++num_pausing_;
    ++num_preemptions_;
  }
  places_.assign(chosen.begin(), chosen.end());
  std::ranges::sort(places_);
  stop_running(places_);
}

void Planner::release_paused() {
  std::erase_if(leaving_, [this](PlannedSequence* sequence) {
    if (!sequence->is_pausing_ || sequence->num_steps_in_flight > 0) return false;
    sequence->is_pausing_ = false;
    cache_.release(std::exchange(sequence->table, PlannedSequence::kNoTable), sequence->tokens());
    // All of its tokens are known now.
    sequence->context_len_ =
        sequence->prompt_len() + static_cast<int32_t>(sequence->generated_.size());
    sequence->num_computed_ = 0;
    waiting_.push_preempted(*sequence);
    --num_pausing_;
    return true;
  });
}

const PlannedSequence* Planner::running_twin(const PlannedSequence& sequence) const {
  const uint64_t id = sequence.facts_.twin_id;
  if (id == 0 || !cache_.reuses_blocks()) return nullptr;
  const auto found = std::ranges::find(running_, id, &PlannedSequence::id);
  return found == running_.end() ? nullptr : *found;
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
  SequenceView view = sequence.view(0);
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
    window_views_.push_back(sequence->view(0));
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
  scheduler::Admission admission(claims_, cache, limits_);
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
  return std::ranges::any_of(running_views_, [](const SequenceView& view) {
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
  sequence.num_computed_ = cache_.num_cached_tokens(sequence.table);
  sequence.num_context_blocks_ = static_cast<int32_t>(cache_.block_table(sequence.table).size());
  sequence.num_reused_blocks_ = cache_.geometry().num_blocks(sequence.num_computed_);
  sequence.place_ = static_cast<int32_t>(running_.size());
  running_.push_back(&sequence);
  running_views_.push_back(sequence.view(num_blocks(sequence)));
  claims_.add(running_views_.back());
  are_views_stale_ |= running_views_.back().logits_of_prompt;
  num_needing_newest_ += sequence.needs_newest_token() ? 1 : 0;
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
  for (const PlannedSequence* sequence : ended_) places_.push_back(place_of(*sequence));
  ended_.clear();
  std::ranges::sort(places_);
  for (const int32_t place : places_) leaving_.push_back(running_[place]);
  stop_running(places_);
}

void Planner::release(std::vector<PlannedSequence*>& gone) {
  retire();
  std::erase_if(leaving_, [&](PlannedSequence* sequence) {
    if (!sequence->has_ended_ || sequence->num_steps_in_flight > 0) return false;
    if (sequence->table != PlannedSequence::kNoTable)
      cache_.release(sequence->table, sequence->tokens());
    gone.push_back(sequence);
    return true;
  });
  release_paused();
}

}  // namespace inflight::planning
