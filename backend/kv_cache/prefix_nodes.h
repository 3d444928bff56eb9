// Memory of the prefix tree: nodes of one size with their tokens behind them, by id. A node is one
// block's tokens under a parent. Host only; no node is touched before it is first used, so a large
// tree takes memory as it grows.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "backend/kv_cache/block_copy.h"
#include "kernels/core/buffer.h"

namespace inflight::kv_cache {

/// A node, or ~root for what has no block before it.
using NodeId = int32_t;
inline constexpr NodeId kNoNode = -1;
inline constexpr int32_t kNoBlock = -1;

struct PrefixNode {
  enum Flag : uint8_t {
    kIsUsed = 1,       // by at least one table
    kIsListed = 2,     // in an eviction order
    kHasDuration = 4,  // of its priority
    kIsAlive = 8,
    kIsAhead = 16,  // an eviction order has looked at it
  };

  NodeId parent;
  NodeId first_child;
  NodeId next, previous;          // among siblings, in a ring; those on the device first
  NodeId next_in_bucket;          // or the next free node
  uint32_t hash;                  // the upper half
  std::array<int32_t, 2> blocks;  // by Tier; kNoBlock where it has none
  NodeId older, newer;            // in an eviction order
  uint16_t num_tokens;            // fewer than a block has: a leaf
  uint8_t priority;
  uint8_t flags;

  bool has(Flag flag) const { return (flags & flag) != 0; }
  void set(Flag flag, bool value) {
    flags = static_cast<uint8_t>(value ? flags | flag : flags & ~flag);
  }
  bool is_in(Tier tier) const { return blocks[static_cast<size_t>(tier)] != kNoBlock; }
  int32_t block(Tier tier) const { return blocks[static_cast<size_t>(tier)]; }
};
static_assert(sizeof(PrefixNode) == 44);  // of the 128 bytes a block may take in all

/// A node, for the invariants and for tests.
struct NodeSnapshot {
  NodeId node = kNoNode;
  NodeId parent = kNoNode;  // ~root for the first of a scope
  std::vector<int32_t> tokens;
  int32_t device_block = kNoBlock;
  int32_t host_block = kNoBlock;
  int32_t priority = 0;
  bool is_used = false;
};

class PrefixNodes {
 public:
  PrefixNodes(int32_t capacity, int32_t words_per_node)
      : capacity_(capacity),
        stride_(sizeof(PrefixNode) + size_t{4} * words_per_node),
        memory_(stride_ * capacity) {}

  PrefixNode& operator[](NodeId id) { return *reinterpret_cast<PrefixNode*>(at(id)); }
  const PrefixNode& operator[](NodeId id) const {
    return *reinterpret_cast<const PrefixNode*>(at(id));
  }
  uint32_t* words(NodeId id) { return reinterpret_cast<uint32_t*>(at(id) + sizeof(PrefixNode)); }
  const uint32_t* words(NodeId id) const {
    return reinterpret_cast<const uint32_t*>(at(id) + sizeof(PrefixNode));
  }
  /// The node without its tokens; and with them.
  void prefetch_header(NodeId id) const {
    const std::byte* start = at(id);
    __builtin_prefetch(start);
    __builtin_prefetch(start + sizeof(PrefixNode) - 1);
  }
  void prefetch(NodeId id) const {
    const std::byte* start = at(id);
    for (size_t offset = 0; offset < stride_; offset += 64) __builtin_prefetch(start + offset);
    __builtin_prefetch(start + stride_ - 1);
  }

  /// kNoNode if all are taken.
  NodeId take() {
    if (free_ != kNoNode) {
      const NodeId id = std::exchange(free_, (*this)[free_].next_in_bucket);
      if (free_ != kNoNode) prefetch(free_);  // for the next
      return id;
    }
    return num_touched_ < capacity_ ? num_touched_++ : kNoNode;
  }
  void give_back(NodeId id) {
    (*this)[id].flags = 0;
    (*this)[id].next_in_bucket = std::exchange(free_, id);
  }

  int32_t num_touched() const { return num_touched_; }  // ids below it were in use at some time

 private:
  std::byte* at(NodeId id) const {
    return static_cast<std::byte*>(memory_.data()) + stride_ * static_cast<size_t>(id);
  }

  const int32_t capacity_;
  const size_t stride_;  // bytes
  Buffer memory_;        // in pages as large as there are: nodes are looked at all over it
  NodeId free_ = kNoNode;
  int32_t num_touched_ = 0;
};

}  // namespace inflight::kv_cache
