#include "backend/planning/waiting_queue.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::planning {
namespace {

/// The smallest on top: least served, then who came first.
constexpr auto kComesAfter = [](const auto& a, const auto& b) {
  return a.key != b.key ? a.key > b.key : a.id > b.id;
};

}  // namespace

WaitingQueue::Level& WaitingQueue::level_of(int32_t priority) {
  Level& level = levels_[priority];
  level.priority = priority;
  level.preempted.level = &level;
  return level;
}

void WaitingQueue::append(Lane& lane, PlannedSequence& sequence) {
  sequence.links_ = {lane.last, nullptr, &lane};
  (lane.last == nullptr ? lane.first : lane.last->links_.next) = &sequence;
  lane.last = &sequence;
}

void WaitingQueue::unlink(Lane& lane, PlannedSequence& sequence) {
  auto& [previous, next, own_lane] = sequence.links_;
  (previous == nullptr ? lane.first : previous->links_.next) = next;
  (next == nullptr ? lane.last : next->links_.previous) = previous;
  sequence.links_ = {};
}

void WaitingQueue::put_in_order(Lane& lane) {
  lane.key = ledger_.served(lane.tenant);
  lane.first_id = lane.first->id();
  Order& order = lane.level->order;
  if (lane.node.empty())
    order.insert(&lane);
  else
    order.insert(std::move(lane.node));
}

void WaitingQueue::take_out_of_order(Lane& lane) { lane.node = lane.level->order.extract(&lane); }

void WaitingQueue::push(PlannedSequence& sequence) {
  Level& level = level_of(sequence.priority());
  const scheduler::TenantId tenant = sequence.tenant();
  if (num_waiting_[tenant]++ == 0) ledger_.begins_to_wait(tenant);
  if (const auto found = level.lanes.find(tenant); found != level.lanes.end()) {
    append(*found->second, sequence);
  } else {
    auto fresh = std::make_unique<Lane>();
    fresh->tenant = tenant;
    fresh->level = &level;
    Lane& lane = *level.lanes.emplace(tenant, std::move(fresh)).first->second;
    append(lane, sequence);
    put_in_order(lane);
  }
  ++size_;
}

void WaitingQueue::push_preempted(PlannedSequence& sequence) {
  Lane& lane = level_of(sequence.priority()).preempted;
  // Few are preempted at a time, and those that came last are preempted first.
  PlannedSequence* next = lane.first;
  while (next != nullptr && next->id() < sequence.id()) next = next->links_.next;
  if (next == nullptr) {
    append(lane, sequence);
  } else {
    PlannedSequence* const previous = next->links_.previous;
    sequence.links_ = {previous, next, &lane};
    (previous == nullptr ? lane.first : previous->links_.next) = &sequence;
    next->links_.previous = &sequence;
  }
  ++size_;
  ++num_preempted_;
}

void WaitingQueue::erase(PlannedSequence& sequence) {
  check_internal(sequence.links_.lane != nullptr, "sequence ", sequence.id(), " does not wait");
  Lane& lane = *static_cast<Lane*>(sequence.links_.lane);
  Level& level = *lane.level;
  --size_;
  if (lane.tenant < 0) {
    unlink(lane, sequence);
    --num_preempted_;
  } else {
    take_out_of_order(lane);
    unlink(lane, sequence);
    const auto count = num_waiting_.find(lane.tenant);
    if (--count->second == 0) num_waiting_.erase(count);
    if (lane.first != nullptr) {
      put_in_order(lane);
    } else {
      level.lanes.erase(lane.tenant);
    }
  }
  if (level.lanes.empty() && level.preempted.first == nullptr) levels_.erase(level.priority);
}

void WaitingQueue::for_each(size_t most,
                            const std::function<void(const PlannedSequence&)>& visit) const {
  const auto walk = [&](const Lane& lane) {
    for (const PlannedSequence* each = lane.first; each != nullptr && most > 0;
         each = each->links_.next, --most)
      visit(*each);
  };
  for (const auto& [priority, level] : levels_) {
    walk(level.preempted);
    for (const auto& [tenant, lane] : level.lanes) walk(*lane);
    if (most == 0) return;
  }
}

WaitingQueue::Round::Round(WaitingQueue& queue) : queue_(queue), level_(queue.levels_.begin()) {
  check_internal(queue.heap_.empty() && queue.pulled_.empty(), "a round in a round");
  begin_level();
}

WaitingQueue::Round::~Round() {
  queue_.heap_.clear();
  // Lanes go back into the order with what their tenants have been served by now.
  for (Lane* lane : queue_.pulled_) queue_.put_in_order(*lane);
  queue_.pulled_.clear();
}

void WaitingQueue::Round::begin_level() {
  if (level_ != queue_.levels_.end()) preempted_ = level_->second.preempted.first;
}

void WaitingQueue::Round::pull() {
  Level& level = level_->second;
  Lane* const lane = *level.order.begin();
  queue_.pulled_.push_back(lane);  // what raises after it finds it there
  take_out_of_order(*lane);
  queue_.heap_.push_back(
      {queue_.ledger_.served(lane->tenant), lane->first->id(), lane, lane->first});
  std::ranges::push_heap(queue_.heap_, kComesAfter);
}

bool WaitingQueue::Round::may_precede(const Lane& lane, const Entry& entry) {
  return lane.key != entry.key ? lane.key < entry.key : lane.first_id < entry.id;
}

PlannedSequence* WaitingQueue::Round::next() {
  std::vector<Entry>& heap = queue_.heap_;
  while (level_ != queue_.levels_.end()) {
    if (preempted_ != nullptr) {
      PlannedSequence* const result = preempted_;
      preempted_ = result->links_.next;
      return result;
    }
    const auto& order = level_->second.order;
    // Those that may come before all that were looked at.
    while (!order.empty() && (heap.empty() || may_precede(**order.begin(), heap.front()))) pull();
    if (!heap.empty()) {
      std::ranges::pop_heap(heap, kComesAfter);
      Entry& entry = heap.back();
      PlannedSequence* const result = entry.sequence;
      if (PlannedSequence* const behind = result->links_.next) {
        entry = {entry.key + result->prompt_len(), behind->id(), entry.lane, behind};
        std::ranges::push_heap(heap, kComesAfter);
      } else {
        heap.pop_back();
      }
      return result;
    }
    ++level_;
    begin_level();
  }
  return nullptr;
}

}  // namespace inflight::planning
