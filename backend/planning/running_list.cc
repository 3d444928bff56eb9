#include "backend/planning/running_list.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::planning {

using scheduler::SequenceView;

RunningList::RunningList(const scheduler::Limits& limits, const kv_cache::KvCacheManager& cache,
                         const scheduler::CacheView& view)
    : limits_(limits), cache_(cache), claims_(view, limits) {}

SequenceView RunningList::view_of(const PlannedSequence& sequence) const {
  SequenceView view = sequence.view();
  view.num_computed = cache_.num_reserved_tokens(sequence.table);
  view.num_blocks = cache_.num_held_blocks(sequence.table);
  return view;
}

void RunningList::add(PlannedSequence& sequence) {
  sequence.order_ = ++num_admitted_;
  sequences_.push_back(&sequence);
  views_.push_back(view_of(sequence));
  seats_.push_back(
      {.order = sequence.order_, .table = sequence.table, .tenant = sequence.tenant(), .row = 0});
  claims_.add(views_.back());
  are_views_stale_ |= views_.back().logits_of_prompt;
  num_needing_newest_ += sequence.needs_newest_token() ? 1 : 0;
}

void RunningList::remove(std::span<const int32_t> places) {
  if (places.empty()) return;
  for (const int32_t place : places) {
    num_needing_newest_ -= sequences_[place]->needs_newest_token() ? 1 : 0;
    claims_.remove(views_[place]);
  }
  const auto close_up = [&](auto& list) {
    auto to = list.begin() + places.front();
    for (size_t i = 0; i < places.size(); ++i) {
      const size_t end = i + 1 < places.size() ? places[i + 1] : list.size();
      to = std::copy(list.begin() + places[i] + 1, list.begin() + end, to);
    }
    list.resize(to - list.begin());
  };
  close_up(sequences_);
  close_up(views_);
  close_up(seats_);
}

int32_t RunningList::place_of(const PlannedSequence& sequence) const {
  const auto found = std::ranges::lower_bound(seats_, sequence.order_, {}, &Seat::order);
  const auto place = static_cast<int32_t>(found - seats_.begin());
  check_internal(found != seats_.end() && sequences_[place] == &sequence, "sequence ",
                 sequence.id(), " does not run");
  return place;
}

PlannedSequence* RunningList::find(uint64_t id) const {
  const auto found = std::ranges::find(views_, id, &SequenceView::id);
  return found == views_.end() ? nullptr : sequences_[found - views_.begin()];
}

void RunningList::refresh(const scheduler::CacheView& cache) {
  if (!std::exchange(are_views_stale_, false)) return;
  claims_ = {cache, limits_};
  for (size_t i = 0; i < views_.size(); ++i) {
    views_[i] = view_of(*sequences_[i]);
    claims_.add(views_[i]);
    // Its rows go out when the step has ended, which nobody tells here.
    are_views_stale_ |= views_[i].logits_of_prompt;
  }
}

void RunningList::advance(const scheduler::Step& step, std::vector<kv_cache::Growth>& growths,
                          std::vector<int32_t>& rows, std::vector<PlannedSequence*>& sequences,
                          scheduler::StepWork& work, scheduler::ServiceLedger& ledger) {
  const size_t count = step.sequences.size();
  growths.resize(count);
  rows.resize(count);
  sequences.resize(count);
  changing_.clear();
  const int32_t tokens_per_block = cache_.geometry().tokens_per_block();
  // Thousands of rounds: what is looked up each time is looked up here.
  const scheduler::ScheduledSequence* const parts = step.sequences.data();
  PlannedSequence* const* const all = sequences_.data();
  Seat* const seats = seats_.data();
  SequenceView* const views = views_.data();
  PlannedSequence** const named = sequences.data();
  kv_cache::Growth* const grown = growths.data();
  int32_t* const in_flight = rows.data();
  const auto advance_part = [&](size_t i, int32_t row) -> const Seat& {
    const scheduler::ScheduledSequence& part = parts[i];
    Seat& seat = seats[part.index];
    SequenceView& view = views[part.index];
    const bool is_in_flight = !part.is_prompt_chunk && cache_.num_open_reservations(seat.table) > 0;
    in_flight[i] = is_in_flight ? seat.row : -1;
    named[i] = all[part.index];
    grown[i] = {seat.table, part.first_position, part.num_tokens};
    seat.row = row;
    const int32_t num_computed = part.first_position + part.num_tokens;
    if (num_computed > view.num_blocks * tokens_per_block ||
        num_computed == kv_cache::max_cached_tokens(view.max_total_len)) {
      claims_.remove(view);
      changing_.push_back(part.index);
    }
    view.num_computed = num_computed;
    return seat;
  };
  const size_t num_generating = step.num_generating;
  work.num_tokens = static_cast<int32_t>(num_generating);
  // Charged together, as neighbours are often of one tenant.
  scheduler::TenantId tenant = -1;
  int64_t num_of_tenant = 0;
  const auto charge = [&] {
    if (num_of_tenant > 0)
      ledger.charge(tenant, num_of_tenant * scheduler::ServiceLedger::kGeneratedWeight);
  };
  int64_t keys = 0;
  for (size_t i = 0; i < num_generating; ++i) {
    const Seat& seat = advance_part(i, static_cast<int32_t>(i));
    keys += parts[i].first_position + 1;
    if (seat.tenant != tenant) {
      charge();
      tenant = seat.tenant;
      num_of_tenant = 0;
    }
    ++num_of_tenant;
  }
  charge();
  work.generation_keys = keys;
  auto num_logits = static_cast<int32_t>(num_generating);  // rows
  for (size_t i = num_generating; i < count; ++i) {
    const scheduler::ScheduledSequence& part = parts[i];
    num_logits += part.num_logits();
    const Seat& seat = advance_part(i, num_logits - 1);
    work.add_chunk(part.first_position, part.num_tokens);
    ledger.charge(seat.tenant, part.num_tokens);
  }
}

void RunningList::advanced() {
  for (const int32_t place : changing_) {
    views_[place].num_blocks = cache_.num_held_blocks(seats_[place].table);
    claims_.add(views_[place]);
  }
}

void RunningList::check_kept(const scheduler::CacheView& cache) const {
  if (are_views_stale_) return;
  scheduler::RunningClaims claims(cache, limits_);
  size_t num_needing_newest = 0;
  for (size_t i = 0; i < views_.size(); ++i) {
    const PlannedSequence& sequence = *sequences_[i];
    check_internal(views_[i] == view_of(sequence), "sequence ", sequence.id(),
                   " is not what the scheduler is shown");
    check_internal(place_of(sequence) == static_cast<int32_t>(i), "sequence ", sequence.id(),
                   " is not at its place");
    check_internal(seats_[i].table == sequence.table && seats_[i].tenant == sequence.tenant(),
                   "sequence ", sequence.id(), " has another's table or tenant");
    claims.add(views_[i]);
    num_needing_newest += sequence.needs_newest_token() ? 1 : 0;
  }
  check_internal(claims == claims_ && num_needing_newest == num_needing_newest_, "the sums of ",
                 views_.size(), " running sequences are not theirs");
}

}  // namespace inflight::planning
