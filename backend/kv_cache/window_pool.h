// Who holds which blocks of the layers that see a sliding window. A table is as long as that of the
// layers that see everything, but blocks that no later token sees are given back while its sequence
// runs: their places stay, as holes that nobody reads, so that a position is found where it always
// is. Bookkeeping only; the manager's, under whose table ids it goes.
//
// Where prompts are to find what earlier ones computed, a full block belongs to a node of the
// prefix tree: tables that begin with that node's tokens share it, and when none names it any more
// it is kept until it is needed. What begins at a node needs the blocks that its window sees there,
// and those of the sinks, not the ones before: as many a hit needs as a sequence holds.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/kv_cache/geometry.h"
#include "backend/kv_cache/reservation.h"
#include "backend/kv_cache/window_cache.h"
#include "backend/kv_cache/window_geometry.h"

namespace inflight::kv_cache {

struct WindowTableSnapshot {
  TableId table = -1;
  std::vector<int32_t> block_ids;  // WindowPool::kHole where there is none
  int32_t num_committed = 0;       // tokens
  int32_t num_reserved = 0;        // tokens, those committed included
};

struct WindowSnapshot {
  int32_t tokens_per_block = 1;
  Window window;
  int32_t num_blocks = 0;
  std::vector<int32_t> free_ids;    // in no promised order
  std::vector<int32_t> ref_counts;  // [num_blocks]: tables that name it
  std::vector<NodeId> nodes;        // [num_blocks]: whose it is, kNoNode: nobody's
  std::vector<WindowTableSnapshot> tables;
};

class WindowPool {
 public:
  static constexpr int32_t kHole = -1;

  /// `is_reused`: blocks can be stored. Raises invalid_argument for impossible sizes.
  WindowPool(Geometry geometry, Window window, int32_t num_blocks, bool is_reused = false);

  // Where blocks can be stored.
  /// Whether the node has a block here.
  bool has(NodeId node) const { return cache_->block_of(node) != kNoBlock; }
  /// A table that has no tokens yet begins with those of the nodes of `path`, one a full block,
  /// which have blocks wherever the window and the sinks see them.
  void begin(TableId table, std::span<const NodeId> path);
  /// Block `index` of the table, full and committed, is the node's from now on, unless that has
  /// one or the window has left it.
  void store(TableId table, int32_t index, NodeId node, int32_t priority);
  void set_priority(NodeId node, int32_t priority);
  /// The node is no more.
  void forget(NodeId node);

  /// Makes room for `num_tokens` tokens of the table in all; false, with nothing taken, if too few
  /// blocks are free or kept. A table begins to be with its first growth.
  bool grow(TableId table, int32_t num_tokens);
  /// Back to room for `num_tokens` tokens, at least those committed.
  void shrink(TableId table, int32_t num_tokens) noexcept;
  /// `num_tokens` tokens have been run: gives back the blocks that no later token sees.
  void commit(TableId table, int32_t num_tokens);
  /// Gives all of the table's blocks back; nothing if it never grew.
  void release(TableId table) noexcept;

  /// In order of position; valid until the next call that changes the table.
  std::span<const int32_t> block_table(TableId table) const;
  int32_t num_held_blocks(TableId table) const;

  const Window& window() const { return window_; }
  int32_t num_blocks() const { return num_blocks_; }
  int32_t num_free_blocks() const { return static_cast<int32_t>(free_ids_.size()); }
  /// Named by no table, to be found by prompts.
  int32_t num_cached_blocks() const { return cache_ ? cache_->num_kept() : 0; }
  int64_t num_evicted_blocks() const { return num_evicted_; }  // since the start: were cached

  WindowSnapshot snapshot() const;

 private:
  struct Table {
    std::vector<int32_t> ids;
    int32_t num_committed = 0;  // tokens
    int32_t num_reserved = 0;   // tokens
    int32_t num_freed = 0;      // holes, all of them behind the sinks
  };
  Table& at(TableId table);
  void release_block(int32_t block) noexcept;
  void evict(int32_t count);

  Geometry geometry_;
  Window window_;
  int32_t num_blocks_;
  std::vector<int32_t> free_ids_;    // a stack; as long as the pool from the start: never grows
  std::vector<int32_t> ref_counts_;  // by block: tables that name it
  std::vector<Table> tables_;        // by id
  std::unique_ptr<WindowCache> cache_;
  int64_t num_evicted_ = 0;
};

/// Every broken rule, a sentence each; empty if all hold: a block is free, in as many tables as its
/// count says, or a node's; one that is still written is in one table and no node's; a table is as
/// long as its tokens need and has holes exactly where no later token sees a block.
std::vector<std::string> window_violations(const WindowSnapshot& snapshot);

}  // namespace inflight::kv_cache
