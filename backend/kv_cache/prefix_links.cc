// The other half of PrefixIndex: who is beside whom, who may go, and how nodes leave.
#include <algorithm>
#include <cassert>

#include "backend/kv_cache/prefix_index.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {

void PrefixIndex::link_sibling(NodeId id, bool first) {
  PrefixNode& node = nodes_[id];
  NodeId& head = first_child_of(node.parent);
  if (head == kNoNode) {
    node.previous = id;
    node.next = kNoNode;
    head = id;
    return;
  }
  const NodeId last = nodes_[head].previous;
  node.previous = last;
  nodes_[head].previous = id;
  if (first) {
    node.next = head;
    head = id;
  } else {
    node.next = kNoNode;
    nodes_[last].next = id;
  }
}

void PrefixIndex::unlink_sibling(NodeId id) {
  PrefixNode& node = nodes_[id];
  NodeId& head = first_child_of(node.parent);
  if (node.next != kNoNode) {
    nodes_[node.next].previous = node.previous;
  } else if (head != id) {
    nodes_[head].previous = node.previous;
  }
  if (head == id) {
    head = node.next;
  } else {
    nodes_[node.previous].next = node.next;
  }
}

bool PrefixIndex::has_followers_on_device(NodeId id) const {
  const NodeId child = nodes_[id].first_child;
  return child != kNoNode && nodes_[child].is_in(Tier::kDevice);
}

void PrefixIndex::path(NodeId last, std::span<NodeId> out) const {
  NodeId id = last;
  for (size_t i = out.size(); i-- > 0; id = nodes_[id].parent) out[i] = id;
  assert(id < 0);
}

void PrefixIndex::set_retention(NodeId id, const BlockRetention& retention) {
  PrefixNode& node = nodes_[id];
  const bool is_listed = node.has(PrefixNode::kIsListed);
  if (is_listed) order_of(node).remove(id);
  node.priority = static_cast<uint8_t>(retention.priority);
  if (is_listed) order_of(node).add_newest(id);
  if (retention.duration) {
    expiries_.set(id, *retention.duration);
    if (!node.has(PrefixNode::kIsUsed)) expiries_.start(id, now_);
  } else if (node.has(PrefixNode::kHasDuration)) {
    expiries_.forget(id);
  }
  node.set(PrefixNode::kHasDuration, retention.duration.has_value());
}

bool PrefixIndex::keep(int32_t block) {
  const NodeId id = node_of_block_[block];
  if (id == kNoNode) return false;
  became_unused(id);
  return true;
}

void PrefixIndex::use(int32_t block) { use_node(node_of_block_[block]); }

void PrefixIndex::use_node(NodeId id) {
  PrefixNode& node = nodes_[id];
  if (node.has(PrefixNode::kIsListed)) order_of(node).remove(id);
  if (node.has(PrefixNode::kHasDuration)) expiries_.stop(id);
  node.set(PrefixNode::kIsUsed, true);
}

void PrefixIndex::unuse_node(NodeId id) {
  const PrefixNode& node = nodes_[id];
  if (node.has(PrefixNode::kIsUsed) && !node.is_in(Tier::kDevice)) became_unused(id);
}

void PrefixIndex::became_unused(NodeId id) {
  PrefixNode& node = nodes_[id];
  node.set(PrefixNode::kIsUsed, false);
  order_of(node).add_newest(id);
  if (node.has(PrefixNode::kHasDuration)) expiries_.start(id, now_);
}

NodeId PrefixIndex::next_victim() {
  return device_order_.next([this](NodeId victim) { return has_followers_on_device(victim); });
}

int32_t PrefixIndex::prefetch_victims(std::span<int32_t> blocks) const {
  NodeId listed = device_order_.first();
  NodeId id = listed;
  size_t count = 0;
  for (; id != kNoNode && count < blocks.size(); ++count) {
    const PrefixNode& node = nodes_[id];  // the one wait for each: the others come meanwhile
    blocks[count] = node.block(Tier::kDevice);
    prefetch_node_of(blocks[count]);
    __builtin_prefetch(&first_in_bucket_[bucket_of(node.hash)]);
    // A parent that is not in the order goes next when its last follower has gone.
    const NodeId parent = node.parent;
    const bool is_followed =
        parent >= 0 && node.next == kNoNode && nodes_[parent].first_child == id &&
        !nodes_[parent].has(PrefixNode::kIsUsed) && !nodes_[parent].has(PrefixNode::kIsListed) &&
        nodes_[parent].priority <= node.priority;
    id = is_followed ? parent : (listed = nodes_[listed].newer);
  }
  for (size_t i = 0; i < count; ++i) {
    const NodeId victim = node_of_block_[blocks[i]];
    prefetch_header(first_in_bucket_[bucket_of(nodes_[victim].hash)]);
  }
  return static_cast<int32_t>(count);
}

int32_t PrefixIndex::prefetch_next_victim() {
  const NodeId id = device_order_.look_ahead();
  if (id == kNoNode) return kNoBlock;
  const PrefixNode& node = nodes_[id];
  const int32_t block = node.block(Tier::kDevice);
  prefetch_node_of(block);
  __builtin_prefetch(&first_in_bucket_[bucket_of(node.hash)]);
  return block;
}

NodeId PrefixIndex::next_host_victim() {
  return host_order_.next([this](NodeId id) { return nodes_[id].first_child != kNoNode; });
}

void PrefixIndex::move_to_host(NodeId id, int32_t host_block) {
  PrefixNode& node = nodes_[id];
  assert(!node.has(PrefixNode::kIsUsed) && !has_followers_on_device(id));
  if (node.has(PrefixNode::kIsListed)) device_order_.remove(id);
  node_of_block_[node.block(Tier::kDevice)] = kNoNode;
  node.blocks = {kNoBlock, host_block};
  ++num_changes_;
  unlink_sibling(id);
  link_sibling(id, false);
  host_order_.add_newest(id);
  lost_follower(node.parent);
}

void PrefixIndex::add_device_block(NodeId id, int32_t block) {
  PrefixNode& node = nodes_[id];
  assert(node.has(PrefixNode::kIsUsed) && !node.is_in(Tier::kDevice));
  assert(node.parent < 0 || nodes_[node.parent].is_in(Tier::kDevice));
  node.blocks[static_cast<size_t>(Tier::kDevice)] = block;
  node_of_block_[block] = id;
  ++num_changes_;
  unlink_sibling(id);
  link_sibling(id, true);
}

void PrefixIndex::drop_host_block(NodeId id) {
  assert(nodes_[id].is_in(Tier::kDevice));
  nodes_[id].blocks[static_cast<size_t>(Tier::kHost)] = kNoBlock;
}

void PrefixIndex::lost_follower(NodeId parent) {
  if (parent < 0) {
    if (roots_.first_child(~parent) == kNoNode) roots_.became_empty(~parent);
    return;
  }
  const PrefixNode& node = nodes_[parent];
  if (node.has(PrefixNode::kIsUsed) || node.has(PrefixNode::kIsListed)) return;
  if (node.is_in(Tier::kDevice) ? !has_followers_on_device(parent) : node.first_child == kNoNode)
    order_of(node).add_oldest(parent);
}

void PrefixIndex::remove(NodeId id) {
  PrefixNode& node = nodes_[id];
  assert(node.first_child == kNoNode);
  if (node.has(PrefixNode::kIsListed)) order_of(node).remove(id);
  if (node.has(PrefixNode::kHasDuration)) expiries_.forget(id);
  NodeId* link = &first_in_bucket_[bucket_of(node.hash)];
  while (*link != id) link = &nodes_[*link].next_in_bucket;
  *link = node.next_in_bucket;
  if (node.is_in(Tier::kDevice)) {
    node_of_block_[node.block(Tier::kDevice)] = kNoNode;
  }
  unlink_sibling(id);
  const NodeId parent = node.parent;
  nodes_.give_back(id);
  --num_nodes_;
  ++num_changes_;
  lost_follower(parent);
}

void PrefixIndex::forget_all() {
  for (NodeId id = 0; id < nodes_.num_touched(); ++id) {
    const PrefixNode& node = nodes_[id];
    if (!node.has(PrefixNode::kIsAlive)) continue;
    if (node.is_in(Tier::kDevice)) node_of_block_[node.block(Tier::kDevice)] = kNoNode;
    if (node.parent < 0) {
      roots_.first_child(~node.parent) = kNoNode;
      roots_.became_empty(~node.parent);
    }
    nodes_.give_back(id);
  }
  first_in_bucket_.fill(kNoNode);
  device_order_ = EvictionOrder(nodes_);
  host_order_ = EvictionOrder(nodes_);
  expiries_.clear();
  num_nodes_ = 0;
  ++num_changes_;
}

std::vector<NodeSnapshot> PrefixIndex::snapshot() const {
  std::vector<NodeSnapshot> all;
  for (NodeId id = 0; id < nodes_.num_touched(); ++id) {
    const PrefixNode& node = nodes_[id];
    if (!node.has(PrefixNode::kIsAlive)) continue;
    NodeSnapshot& each = all.emplace_back();
    each = {.node = id,
            .parent = node.parent,
            .device_block = node.block(Tier::kDevice),
            .host_block = node.block(Tier::kHost),
            .priority = node.priority,
            .is_used = node.has(PrefixNode::kIsUsed)};
    for (int32_t i = 0; i < node.num_tokens; ++i)
      each.tokens.push_back(packing_.token(nodes_.words(id), i));
  }
  return all;
}

}  // namespace inflight::kv_cache
