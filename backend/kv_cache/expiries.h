// When the priorities end that were given for a while only. Few blocks have such: these alone take
// memory here.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/kv_cache/prefix_nodes.h"

namespace inflight::kv_cache {

class Expiries {
 public:
  using Time = std::chrono::nanoseconds;

  /// The node's priority ends `duration` after start.
  void set(NodeId id, Time duration) { by_node_[id] = {duration, kNotStarted}; }
  void forget(NodeId id) { by_node_.erase(id); }
  void clear() {
    by_node_.clear();
    heap_.clear();
  }

  /// Nobody uses the node any more; `id` was set.
  void start(NodeId id, Time now) {
    Entry& entry = by_node_.at(id);
    entry.end = entry.duration > Time::max() - now ? Time::max() : now + entry.duration;
    if (heap_.size() > 2 * by_node_.size() + 64) drop_outdated();
    heap_.emplace_back(entry.end, id);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  void stop(NodeId id) { by_node_.at(id).end = kNotStarted; }

  /// Calls `ended(id)` for each whose time is over, which is forgotten.
  template <typename Ended>
  void take_ended(Time now, const Ended& ended) {
    while (!heap_.empty() && heap_.front().first <= now) {
      const auto [end, id] = heap_.front();
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.pop_back();
      const auto found = by_node_.find(id);
      if (found == by_node_.end() || found->second.end != end) continue;
      by_node_.erase(found);
      ended(id);
    }
  }

 private:
  static constexpr Time kNotStarted = Time::min();
  struct Entry {
    Time duration, end;
  };
  void drop_outdated() {
    std::erase_if(heap_, [this](const auto& each) {
      const auto found = by_node_.find(each.second);
      return found == by_node_.end() || found->second.end != each.first;
    });
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  std::unordered_map<NodeId, Entry> by_node_;
  std::vector<std::pair<Time, NodeId>> heap_;  // soonest first; outdated ones stay for a while
};

}  // namespace inflight::kv_cache
