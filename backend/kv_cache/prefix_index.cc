#include "backend/kv_cache/prefix_index.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <limits>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

PrefixIndex::PrefixIndex(Geometry geometry, int32_t vocab_size, int32_t num_blocks,
                         int32_t num_host_blocks)
    : geometry_(geometry),
      packing_(vocab_size, geometry.tokens_per_block()),
      nodes_(num_blocks + num_host_blocks, packing_.num_words()),
      first_in_bucket_(num_blocks + num_host_blocks, kNoNode),
      node_of_block_(num_blocks, kNoNode),
      device_order_(nodes_),
      host_order_(nodes_),
      tokens_(geometry.tokens_per_block()),
      words_(size_t{kBatch} * packing_.num_words()) {
  check(geometry.tokens_per_block() <= std::numeric_limits<uint16_t>::max(), "tokens_per_block ",
        geometry.tokens_per_block(), ": at most ", std::numeric_limits<uint16_t>::max(),
        " where blocks are used again");
}

NodeId PrefixIndex::find_in_bucket(const Key& key, NodeId parent) const {
  const auto high = static_cast<uint32_t>(key.hash >> 32);
  NodeId id = first_in_bucket_[bucket_of(high)];
  while (id != kNoNode) {
    const PrefixNode& node = nodes_[id];
    if (node.hash == high && node.parent == parent && node.num_tokens == key.num_tokens &&
        std::memcmp(nodes_.words(id), key.words, size_t{4} * packing_.num_words()) == 0)
      return id;
    id = node.next_in_bucket;
  }
  return kNoNode;
}

PrefixIndex::Found PrefixIndex::find(const TokenView& tokens, int32_t num_tokens, PrefixPlace from,
                                     bool partial) const {
  const int32_t size = geometry_.tokens_per_block();
  const int32_t num_words = packing_.num_words();
  const int32_t num_whole = num_tokens / size;
  Found found{.last = from};
  std::array<uint64_t, kBatch> hashes;
  // Memory is slow and looked at out of order: first where the candidates of a batch are, then
  // what they are. The first batch is small, since most prompts are new.
  for (int32_t first = 0, batch = 4; first < num_whole; first += batch, batch = kBatch) {
    batch = std::min(batch, num_whole - first);
    uint64_t hash = found.last.hash;
    int32_t num_packed = 0;
    for (; num_packed < batch; ++num_packed) {
      uint32_t* words = words_.data() + size_t{1} * num_packed * num_words;
      const int32_t start = (first + num_packed) * size;
      const int32_t* ids = tokens_.data();
      if (start + size <= static_cast<int32_t>(tokens.prompt.size())) {
        ids = tokens.prompt.data() + start;
      } else {
        tokens.copy(start, size, tokens_.data());
      }
      if (!packing_.pack(ids, size, words)) break;
      hashes[num_packed] = hash = packing_.chain_hash(hash, words, size);
      prefetch_bucket(hash);
    }
    for (int32_t i = 0; i < num_packed; ++i) {
      const NodeId id = first_in_bucket_[bucket_of(hashes[i] >> 32)];
      if (id != kNoNode) nodes_.prefetch(id);
    }
    int32_t num_found = 0;
    for (; num_found < num_packed; ++num_found) {
      const uint32_t* words = words_.data() + size_t{1} * num_found * num_words;
      const NodeId id = find_in_bucket({hashes[num_found], words, size}, found.last.node);
      if (id == kNoNode) break;
      const PrefixNode& node = nodes_[id];
      found.last = {id, hashes[num_found]};
      ++found.num_blocks;
      found.num_used += node.has(PrefixNode::kIsUsed) ? 1 : 0;
      found.num_in_host += node.is_in(Tier::kDevice) ? 0 : 1;
    }
    if (num_found < batch) break;
  }
  if (partial) find_partial(tokens, num_tokens, found);
  return found;
}

void PrefixIndex::find_partial(const TokenView& tokens, int32_t num_tokens, Found& found) const {
  const int32_t size = geometry_.tokens_per_block();
  const int32_t num_left = std::min(size, num_tokens - found.num_blocks * size);
  if (num_left == 0) return;
  tokens.copy(found.num_blocks * size, num_left, tokens_.data());
  const std::span<const int32_t> left(tokens_.data(), num_left);
  NodeId child = first_child_of(found.last.node);
  for (int i = 0; i < kMaxPartialCandidates && child != kNoNode; ++i, child = nodes_[child].next) {
    if (nodes_[child].next != kNoNode) nodes_.prefetch(nodes_[child].next);
    const int32_t num_common = common_tokens(child, left);
    if (num_common > found.num_partial) {
      found.partial = child;
      found.num_partial = num_common;
    }
  }
}

int32_t PrefixIndex::common_tokens(NodeId id, std::span<const int32_t> tokens) const {
  const uint32_t* words = nodes_.words(id);
  const int32_t most = std::min<int32_t>(nodes_[id].num_tokens, tokens.size());
  int32_t count = 0;
  while (count < most && packing_.token(words, count) == tokens[count]) ++count;
  return count;
}

bool PrefixIndex::covers(const PrefixPlace& place, std::span<const int32_t> tokens) const {
  NodeId child = first_child_of(place.node);
  for (int i = 0; i < kMaxPartialCandidates && child != kNoNode; ++i, child = nodes_[child].next) {
    if (common_tokens(child, tokens) == static_cast<int32_t>(tokens.size())) return true;
  }
  return false;
}

void PrefixIndex::copy_tokens(NodeId id, std::span<int32_t> out) const {
  for (int32_t i = 0; i < nodes_[id].num_tokens; ++i) out[i] = packing_.token(nodes_.words(id), i);
}

PrefixIndex::Stored PrefixIndex::store(PrefixPlace& place, const Key& key, int32_t block,
                                       const BlockRetention& retention) {
  NodeId id = find_in_bucket(key, place.node);
  if (id != kNoNode) {
    place = {id, key.hash};
    return {id, false};
  }
  id = nodes_.take();
  check_internal(id != kNoNode, "the prefix tree has more nodes than there are blocks");
  // Behind the others, which were looked at just now: the oldest, which go first, are found at
  // once.
  NodeId* link = &first_in_bucket_[bucket_of(key.hash >> 32)];
  while (*link != kNoNode) link = &nodes_[*link].next_in_bucket;
  *link = id;
  nodes_[id] = {.parent = place.node,
                .first_child = kNoNode,
                .next_in_bucket = kNoNode,
                .hash = static_cast<uint32_t>(key.hash >> 32),
                .blocks = {block, kNoBlock},
                .num_tokens = static_cast<uint16_t>(key.num_tokens),
                .priority = static_cast<uint8_t>(retention.priority),
                .flags = PrefixNode::kIsUsed | PrefixNode::kIsAlive};
  std::memcpy(nodes_.words(id), key.words, size_t{4} * packing_.num_words());
  link_sibling(id, true);
  node_of_block_[block] = id;
  ++num_nodes_;
  ++num_changes_;
  if (retention.duration) set_retention(id, retention);
  place = {id, key.hash};
  return {id, true};
}

}  // namespace inflight::kv_cache
