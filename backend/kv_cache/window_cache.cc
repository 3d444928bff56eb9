#include "backend/kv_cache/window_cache.h"

#include <algorithm>
#include <cassert>

namespace inflight::kv_cache {

WindowCache::WindowCache(int32_t num_blocks) : blocks_(num_blocks, 0), order_(blocks_) {
  for (int32_t block = 0; block < num_blocks; ++block) {
    blocks_[block] = PrefixNode{};
    blocks_[block].parent = kNoNode;
  }
}

void WindowCache::attach(int32_t block, NodeId node, int32_t priority) {
  assert(node_of(block) == kNoNode && block_of(node) == kNoBlock);
  if (static_cast<size_t>(node) >= block_of_node_.size())
    block_of_node_.resize(std::max<size_t>(node + 1, 2 * block_of_node_.size()), kNoBlock);
  block_of_node_[node] = block;
  blocks_[block].parent = node;
  blocks_[block].priority = static_cast<uint8_t>(priority);
}

void WindowCache::detach(int32_t block) {
  const NodeId node = std::exchange(blocks_[block].parent, kNoNode);
  assert(block_of(node) == block);
  block_of_node_[node] = kNoBlock;
  if (is_kept(block)) use(block);
}

void WindowCache::keep(int32_t block) {
  order_.add_newest(block);
  ++num_kept_;
}

void WindowCache::use(int32_t block) {
  order_.remove(block);
  --num_kept_;
}

void WindowCache::set_priority(int32_t block, int32_t priority) {
  const bool was_kept = is_kept(block);
  if (was_kept) order_.remove(block);
  blocks_[block].priority = static_cast<uint8_t>(priority);
  if (was_kept) order_.add_newest(block);
}

}  // namespace inflight::kv_cache
