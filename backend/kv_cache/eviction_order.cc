#include "backend/kv_cache/eviction_order.h"

#include <cassert>

namespace inflight::kv_cache {

void EvictionOrder::add_newest(NodeId id) {
  PrefixNode& node = (*nodes_)[id];
  assert(!node.has(PrefixNode::kIsListed));
  List& list = lists_[node.priority];
  node.older = list.newest;
  node.newer = kNoNode;
  (list.newest == kNoNode ? list.oldest : (*nodes_)[list.newest].newer) = id;
  list.newest = id;
  filled_[node.priority / 64] |= uint64_t{1} << (node.priority % 64);
  node.set(PrefixNode::kIsListed, true);
}

void EvictionOrder::add_oldest(NodeId id) {
  PrefixNode& node = (*nodes_)[id];
  assert(!node.has(PrefixNode::kIsListed));
  List& list = lists_[node.priority];
  node.older = kNoNode;
  node.newer = list.oldest;
  (list.oldest == kNoNode ? list.newest : (*nodes_)[list.oldest].older) = id;
  list.oldest = id;
  filled_[node.priority / 64] |= uint64_t{1} << (node.priority % 64);
  node.set(PrefixNode::kIsListed, true);
}

void EvictionOrder::remove(NodeId id) {
  PrefixNode& node = (*nodes_)[id];
  assert(node.has(PrefixNode::kIsListed));
  List& list = lists_[node.priority];
  (node.older == kNoNode ? list.oldest : (*nodes_)[node.older].newer) = node.newer;
  (node.newer == kNoNode ? list.newest : (*nodes_)[node.newer].older) = node.older;
  if (list.oldest == kNoNode) filled_[node.priority / 64] &= ~(uint64_t{1} << (node.priority % 64));
  node.set(PrefixNode::kIsListed, false);
}

}  // namespace inflight::kv_cache
