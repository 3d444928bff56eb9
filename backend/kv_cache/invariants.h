// What must hold of the cache after every operation, as pure checks of a snapshot. Run after every
// step in tests and where the engine's configuration asks for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/prefix_nodes.h"
#include "backend/kv_cache/window_pool.h"

namespace inflight::kv_cache {

struct TableSnapshot {
  int32_t table = -1;
  std::vector<int32_t> block_ids;
  int32_t num_committed = 0;  // tokens
  int32_t num_reserved = 0;   // tokens, those committed included
  int32_t room = 0;           // tokens that it may be given without another look at its blocks
  int32_t num_to_come = 0;    // blocks of committed tokens that it gets with its first reserve
  int32_t copied_block = -1;  // on the device, the next of them begins as its copy
  int32_t num_stored = 0;     // of its blocks, the first, which are in the tree
};

struct CacheSnapshot {
  int32_t tokens_per_block = 1;
  PoolSnapshot pool;
  std::vector<TableSnapshot> tables;
  std::vector<int32_t> replaced;    // blocks that only a step in flight still reads
  std::vector<NodeSnapshot> nodes;  // of the prefix tree
  int32_t num_host_blocks = 0;
  std::vector<int32_t> free_host_ids;
  std::vector<WindowSnapshot> windows;  // window_pool.h has their rules
};

/// Every broken rule, a sentence each; empty if all hold:
///  - free + held by a node = total in the host tier;
///  - free + used + cached = total: a block is listed free once with count 0, or counted and not
///    listed, or has count 0 and is in the tree;
///  - every reference is explained: a block's count is the number of table entries that name it, of
///    tables that copy from it, and of steps in flight that alone still read it;
///  - one owner per writable block: a block with slots not yet committed is in one table only, and
///    not in the tree;
///  - a table has exactly the blocks that its tokens need, and no block twice; its room is theirs,
///    or 0;
///  - the tree is one: parents are there, full, on the device if a child is, used if a child is; no
///    two children of one parent have the same tokens, no two nodes the same block; a node is used
///    if its block is, and the first blocks of a table are a path from a root.
std::vector<std::string> violations(const CacheSnapshot& snapshot);

/// Raises internal with all violations, if there are any.
void check_invariants(const CacheSnapshot& snapshot);

}  // namespace inflight::kv_cache
