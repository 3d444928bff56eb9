// Which blocks of a window's pool hold what a node of the prefix tree stands for, and in which
// order those that no table names are given up: smallest priority first, then the one that was not
// used for longest. Bookkeeping only; the pool's.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/kv_cache/eviction_order.h"
#include "backend/kv_cache/prefix_nodes.h"

namespace inflight::kv_cache {

class WindowCache {
 public:
  explicit WindowCache(int32_t num_blocks);

  /// kNoBlock if the node has none, kNoNode if the block is of none.
  int32_t block_of(NodeId node) const {
    return static_cast<size_t>(node) < block_of_node_.size() ? block_of_node_[node] : kNoBlock;
  }
  NodeId node_of(int32_t block) const { return blocks_[block].parent; }

  /// A block that a table names is the node's from now on; neither has been another's.
  void attach(int32_t block, NodeId node, int32_t priority);
  /// The block is of no node any more.
  void detach(int32_t block);
  /// No table names the block any more; one does again.
  void keep(int32_t block);
  void use(int32_t block);
  void set_priority(int32_t block, int32_t priority);

  /// The block to be given up next, kNoBlock if none is kept.
  int32_t next_victim() const { return order_.first(); }
  int32_t num_kept() const { return num_kept_; }
  bool is_kept(int32_t block) const { return blocks_[block].has(PrefixNode::kIsListed); }

 private:
  // By block: its places in the order, its priority, and as its parent the tree's node.
  PrefixNodes blocks_;
  EvictionOrder order_;
  std::vector<int32_t> block_of_node_;
  int32_t num_kept_ = 0;
};

}  // namespace inflight::kv_cache
