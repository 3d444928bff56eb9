// The tree of what is in the cache. A node is one block's tokens under its parent's, so that its
// path from a root says which tokens its keys and values come from. What a node is is decided by
// its parent and its tokens, compared; a hash of all tokens up to it, which can be computed for a
// whole prompt without touching the tree, only finds candidates.
//
// A node has a block on the device, in host memory, or both while it is copied. A node on the
// device has its parent there, and a node that is used has its parent used, so those that are not
// used can all be given up, leaves first. Host only; engine thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/eviction_order.h"
#include "backend/kv_cache/expiries.h"
#include "backend/kv_cache/geometry.h"
#include "backend/kv_cache/large_array.h"
#include "backend/kv_cache/prefix.h"
#include "backend/kv_cache/prefix_nodes.h"
#include "backend/kv_cache/prefix_roots.h"
#include "backend/kv_cache/token_packing.h"

namespace inflight::kv_cache {

/// Where a chain of blocks stands: its last node (or ~root), and the hash up to it.
struct PrefixPlace {
  NodeId node = ~PrefixRoots::kDefault;
  uint64_t hash = PrefixRoots::kDefaultHash;
  bool operator==(const PrefixPlace&) const = default;
};

/// How long a block is to be kept.
struct BlockRetention {
  int32_t priority = Retention::kDefaultPriority;
  std::optional<std::chrono::nanoseconds> duration;  // of the priority, once nobody uses the block
};

class PrefixIndex : public BlockKeeper {
 public:
  /// `num_blocks` on the device, `num_host_blocks` beside it.
  PrefixIndex(Geometry geometry, int32_t vocab_size, int32_t num_blocks, int32_t num_host_blocks);

  struct Found {
    PrefixPlace last;          // of the whole blocks
    int32_t num_blocks = 0;    // whole ones
    int32_t num_used = 0;      // of them
    int32_t num_in_host = 0;   // of them, in host memory alone
    NodeId partial = kNoNode;  // its tokens begin with what follows
    int32_t num_partial = 0;   // tokens
    bool operator==(const Found&) const = default;
  };
  /// The longest path that begins `tokens` [0, num_tokens). Of blocks that begin with what follows
  /// it, at most kMaxPartialCandidates are looked at, the newest first.
  Found find(const TokenView& tokens, int32_t num_tokens, PrefixPlace from, bool partial) const;
  /// What `find` with `partial` adds to what it has found without.
  void find_partial(const TokenView& tokens, int32_t num_tokens, Found& found) const;
  static constexpr int kMaxPartialCandidates = 32;

  /// A block's tokens as they are kept, and the hash of them and all before them.
  struct Key {
    uint64_t hash;
    const uint32_t* words;  // [packing().num_words()]
    int32_t num_tokens;
  };
  /// The node of a whole block or the last of a chain, behind `place`, which moves on to it. If it
  /// is there already it stays as it is (but has a block on the device now); else it is made with
  /// `block`, which is used.
  struct Stored {
    NodeId node;
    bool is_new;
  };
  Stored store(PrefixPlace& place, const Key& key, int32_t block, const BlockRetention& retention);
  /// Whether a block that begins with `tokens` is behind `place`, as far as find would look.
  bool covers(const PrefixPlace& place, std::span<const int32_t> tokens) const;

  const TokenPacking& packing() const { return packing_; }
  const PrefixNode& node(NodeId id) const { return nodes_[id]; }
  /// Those of a node, into `out`.
  void copy_tokens(NodeId id, std::span<int32_t> out) const;
  /// kNoNode for a block on the device that is of none.
  NodeId node_of(int32_t block) const { return node_of_block_[block]; }
  /// The nodes from the root to `last`, one a block, into `out`.
  void path(NodeId last, std::span<NodeId> out) const;
  // What was not looked at for long is slow to come. These say what is needed soon, so that a step
  // waits for all of it together:
  /// a node, not its tokens,
  void prefetch_header(NodeId id) const {
    if (id >= 0) nodes_.prefetch_header(id);
  }
  /// the node of a block on the device,
  void prefetch_node_of(int32_t block) const { __builtin_prefetch(&node_of_block_[block]); }
  /// where nodes of a hash are to be found, and then the first of them.
  void prefetch_bucket(uint64_t hash) const {
    __builtin_prefetch(&first_in_bucket_[bucket_of(hash >> 32)]);
  }
  void prefetch_candidate(uint64_t hash) const {
    prefetch_header(first_in_bucket_[bucket_of(hash >> 32)]);
  }
  /// and then the one behind it.
  void prefetch_second(uint64_t hash) const {
    const NodeId first = first_in_bucket_[bucket_of(hash >> 32)];
    if (first != kNoNode) prefetch_header(nodes_[first].next_in_bucket);
  }
  /// what the victims to come are and touch here, as many as there is room for in `blocks`, into
  /// which their device blocks go. Returns how many. A guess: what happens until then may change
  /// it.
  int32_t prefetch_victims(std::span<int32_t> blocks) const;
  /// long before: of one more. Returns its device block, kNoBlock if there is none to ask for.
  int32_t prefetch_next_victim();
  void set_retention(NodeId id, const BlockRetention& retention);

  // What the pool tells of device blocks.
  bool keep(int32_t block) override;
  void use(int32_t block) override;

  /// A path that find has found is used, though not all of it is on the device yet.
  void use_node(NodeId id);
  /// What use_node did is undone, unless the node has a block on the device by now.
  void unuse_node(NodeId id);

  /// The next to be given up on the device, kNoNode if all are used: it has no follower there.
  NodeId next_victim();
  /// The same for blocks in host memory of nodes that are there alone.
  NodeId next_host_victim();
  /// The node of next_victim leaves its device block for `host_block`.
  void move_to_host(NodeId id, int32_t host_block);
  /// A used node that is in host memory gets a device block; its parent is on the device.
  void add_device_block(NodeId id, int32_t block);
  /// A node on the device has no other block any more.
  void drop_host_block(NodeId id);

  /// Forgets a node that nothing follows; its blocks, used or not, are the caller's again.
  void remove(NodeId id);
  /// Forgets the node and all that follow it, leaves first; none is used. Calls `gone(id)` for each
  /// before.
  template <typename Gone>
  void remove_tree(NodeId id, const Gone& gone) {
    NodeId each = id;
    while (true) {
      while (nodes_[each].first_child != kNoNode) each = nodes_[each].first_child;
      const NodeId leaf = each;
      each = nodes_[leaf].parent;
      gone(leaf);
      remove(leaf);
      if (leaf == id) return;
    }
  }
  /// Forgets every node, used ones too. Calls `gone(id)` for each before.
  template <typename Gone>
  void clear(const Gone& gone) {
    for (NodeId id = 0; id < nodes_.num_touched(); ++id) {
      if (nodes_[id].has(PrefixNode::kIsAlive)) gone(id);
    }
    forget_all();
  }

  int32_t num_nodes() const { return num_nodes_; }
  /// How often nodes have come, gone or changed tier, and one: what find has found is there as long
  /// as this stays the same.
  uint64_t num_changes() const { return num_changes_; }
  PrefixRoots& roots() { return roots_; }
  const PrefixRoots& roots() const { return roots_; }

  /// The time until the next call; priorities whose time is over become the default. Calls
  /// `ended(id)` for each of these.
  template <typename Ended>
  void set_time(std::chrono::nanoseconds now, const Ended& ended) {
    now_ = now;
    expiries_.take_ended(now, [&](NodeId id) {
      nodes_[id].set(PrefixNode::kHasDuration, false);
      set_retention(id, {});
      ended(id);
    });
  }

  std::vector<NodeSnapshot> snapshot() const;

 private:
  static constexpr int32_t kBatch = 32;  // blocks that find looks up at once

  /// By the upper half of a hash.
  size_t bucket_of(uint64_t hash) const { return (hash * first_in_bucket_.size()) >> 32; }
  NodeId& first_child_of(NodeId parent) {
    return parent >= 0 ? nodes_[parent].first_child : roots_.first_child(~parent);
  }
  NodeId first_child_of(NodeId parent) const {
    return parent >= 0 ? nodes_[parent].first_child : roots_.first_child(~parent);
  }
  NodeId find_in_bucket(const Key& key, NodeId parent) const;
  int32_t common_tokens(NodeId id, std::span<const int32_t> tokens) const;
  bool has_followers_on_device(NodeId id) const;
  void link_sibling(NodeId id, bool first);
  void unlink_sibling(NodeId id);
  EvictionOrder& order_of(const PrefixNode& node) {
    return node.is_in(Tier::kDevice) ? device_order_ : host_order_;
  }
  void became_unused(NodeId id);
  void lost_follower(NodeId parent);
  void forget_all();

  const Geometry geometry_;
  const TokenPacking packing_;
  PrefixNodes nodes_;
  PrefixRoots roots_;
  LargeArray<NodeId> first_in_bucket_;
  LargeArray<NodeId> node_of_block_;  // kNoNode where the block is of none
  EvictionOrder device_order_, host_order_;
  Expiries expiries_;
  std::chrono::nanoseconds now_{0};
  int32_t num_nodes_ = 0;
  uint64_t num_changes_ = 1;
  // Memory of find, used again: a batch of blocks.
  mutable std::vector<int32_t> tokens_;
  mutable std::vector<uint32_t> words_;
};

/// What a search has found, with what it takes to know whether that is there still.
struct PrefixLookup {
  PrefixIndex::Found found;
  uint64_t num_changes = 0;  // of the index at that time; 0: nothing was looked for
  int32_t root = PrefixRoots::kNone;
  bool is_complete = false;  // false: whole blocks alone were looked for
};

}  // namespace inflight::kv_cache
