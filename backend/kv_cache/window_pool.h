// Who holds which blocks of the layers that see a sliding window. A table is as long as that of the
// layers that see everything, but blocks that no later token sees are given back while its sequence
// runs: their places stay, as holes that nobody reads, so that a position is found where it always
// is. Blocks are not shared. Bookkeeping only; the manager's, under whose table ids it goes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/kv_cache/geometry.h"
#include "backend/kv_cache/reservation.h"
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
  std::vector<int32_t> free_ids;  // in no promised order
  std::vector<WindowTableSnapshot> tables;
};

class WindowPool {
 public:
  static constexpr int32_t kHole = -1;

  /// Raises invalid_argument for impossible sizes.
  WindowPool(Geometry geometry, Window window, int32_t num_blocks);

  /// Makes room for `num_tokens` tokens of the table in all; false, with nothing taken, if too few
  /// blocks are free. A table begins to be with its first growth.
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

  WindowSnapshot snapshot() const;

 private:
  struct Table {
    std::vector<int32_t> ids;
    int32_t num_committed = 0;  // tokens
    int32_t num_reserved = 0;   // tokens
    int32_t num_freed = 0;      // holes, all of them behind the sinks
  };
  Table& at(TableId table);

  Geometry geometry_;
  Window window_;
  int32_t num_blocks_;
  std::vector<int32_t> free_ids_;  // a stack; as long as the pool from the start: never grows
  std::vector<Table> tables_;      // by id
};

/// Every broken rule, a sentence each; empty if all hold: a block is free once or in one table
/// once, a table is as long as its tokens need and has holes exactly where no later token sees a
/// block.
std::vector<std::string> window_violations(const WindowSnapshot& snapshot);

}  // namespace inflight::kv_cache
