#include "backend/kv_cache/eviction_order.h"

#include <cassert>
#include <utility>

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

NodeId EvictionOrder::look_ahead() {
  if (num_ahead_ == 0) ahead_ = first();
  if (ahead_ == kNoNode || num_ahead_ >= kMaxAhead) return kNoNode;
  PrefixNode& node = (*nodes_)[ahead_];
  node.set(PrefixNode::kIsAhead, true);
  ++num_ahead_;
  const NodeId id = std::exchange(ahead_, node.newer);
  if (ahead_ != kNoNode) nodes_->prefetch_header(ahead_);
  return id;
}

void EvictionOrder::remove(NodeId id) {
  PrefixNode& node = (*nodes_)[id];
  assert(node.has(PrefixNode::kIsListed));
  if (id == ahead_) ahead_ = node.newer;
  if (node.has(PrefixNode::kIsAhead)) --num_ahead_;
  node.set(PrefixNode::kIsAhead, false);
  List& list = lists_[node.priority];
  (node.older == kNoNode ? list.oldest : (*nodes_)[node.older].newer) = node.newer;
  (node.newer == kNoNode ? list.newest : (*nodes_)[node.newer].older) = node.older;
  if (list.oldest == kNoNode) filled_[node.priority / 64] &= ~(uint64_t{1} << (node.priority % 64));
  node.set(PrefixNode::kIsListed, false);
}

}  // namespace inflight::kv_cache
