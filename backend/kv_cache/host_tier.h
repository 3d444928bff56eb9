// The books of the host tier: which of its blocks are free, and for which nodes of the prefix tree
// tables wait that are there alone. What a host block holds is the tree's to know.
#pragma once

#include <cassert>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "backend/kv_cache/prefix_nodes.h"

namespace inflight::kv_cache {

class HostTier {
 public:
  explicit HostTier(int32_t num_blocks) : num_blocks_(num_blocks) {
    free_.reserve(num_blocks);
    for (int32_t block = num_blocks; block-- > 0;) free_.push_back(block);  // 0 is taken first
  }

  int32_t num_blocks() const { return num_blocks_; }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  const std::vector<int32_t>& free_blocks() const { return free_; }

  /// kNoBlock if none is free.
  int32_t take() {
    if (free_.empty()) return kNoBlock;
    const int32_t block = free_.back();
    free_.pop_back();
    return block;
  }
  void give_back(int32_t block) { free_.push_back(block); }

  /// One more table waits for the node; true if it is the first.
  bool pin(NodeId id) { return ++pins_[id] == 1; }
  /// One fewer; true if it was the last.
  bool unpin(NodeId id) {
    const auto found = pins_.find(id);
    assert(found != pins_.end());
    if (--found->second > 0) return false;
    pins_.erase(found);
    return true;
  }
  void forget_pins() { pins_.clear(); }

 private:
  const int32_t num_blocks_;
  std::vector<int32_t> free_;  // a stack
  std::unordered_map<NodeId, int32_t> pins_;
};

}  // namespace inflight::kv_cache
