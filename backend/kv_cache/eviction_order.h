// In which order the blocks of a tier that nobody uses are given up: smallest priority first, then
// the one not used for longest, but none before those that follow it. A list per priority through
// the nodes themselves; every operation is O(1), but a step over priorities.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "backend/kv_cache/prefix_nodes.h"
#include "backend/kv_cache/retention.h"

namespace inflight::kv_cache {

class EvictionOrder {
 public:
  explicit EvictionOrder(PrefixNodes& nodes) : nodes_(&nodes) {}

  void add_newest(NodeId id);
  void add_oldest(NodeId id);
  void remove(NodeId id);

  /// The first of all, whatever follows it; kNoNode if there is none.
  NodeId first() const {
    const int32_t priority = first_priority();
    return priority < 0 ? kNoNode : lists_[priority].oldest;
  }
  /// One after another, from the first on, those that will go, each once; kNoNode if so many were
  /// looked at and are there still that more would be too early. Each was asked for by the call
  /// before: what is not looked at for long is slow to come, and only the one before tells who is
  /// next.
  NodeId look_ahead();
  static constexpr int32_t kMaxAhead = 256;

  /// The next to go, kNoNode if there is none. `has_followers(id)`: blocks that follow it are still
  /// there; they are to be kept longer, or it would not be first, so it leaves the order until the
  /// last of them is gone, when add_oldest brings it back.
  template <typename HasFollowers>
  NodeId next(const HasFollowers& has_followers) {
    while (true) {
      const int32_t priority = first_priority();
      if (priority < 0) return kNoNode;
      const NodeId id = lists_[priority].oldest;
      if (!has_followers(id)) return id;
      remove(id);
    }
  }

 private:
  static constexpr int32_t kNumPriorities = Retention::kMaxPriority + 1;
  struct List {
    NodeId oldest = kNoNode, newest = kNoNode;
  };
  int32_t first_priority() const {
    for (size_t word = 0; word < filled_.size(); ++word) {
      if (filled_[word] != 0)
        return static_cast<int32_t>(word * 64) + std::countr_zero(filled_[word]);
    }
    return -1;
  }

  PrefixNodes* nodes_;
  std::array<List, kNumPriorities> lists_;
  std::array<uint64_t, 2> filled_{};  // a bit for each list that is not empty
  NodeId ahead_ = kNoNode;            // whom look_ahead gives next
  int32_t num_ahead_ = 0;             // nodes with kIsAhead
};

}  // namespace inflight::kv_cache
