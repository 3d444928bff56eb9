// What must hold of the cache after every operation, as pure checks of a snapshot. Run after every
// step in tests and where the engine's configuration asks for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/kv_cache/block_pool.h"

namespace inflight::kv_cache {

struct TableSnapshot {
  int32_t table = -1;
  std::vector<int32_t> block_ids;
  int32_t num_committed = 0;  // tokens
  int32_t num_reserved = 0;   // tokens, those committed included
};

struct CacheSnapshot {
  int32_t tokens_per_block = 1;
  PoolSnapshot pool;
  std::vector<TableSnapshot> tables;
};

/// Every broken rule, a sentence each; empty if all hold:
///  - free + used = total: a block is either listed free once with count 0, or counted and not
///    listed;
///  - every reference is explained: a block's count is the number of table entries that name it;
///  - one owner per writable block: a block with slots not yet committed is in one table only;
///  - a table has exactly the blocks that its tokens need, and no block twice.
std::vector<std::string> violations(const CacheSnapshot& snapshot);

/// Raises internal with all violations, if there are any.
void check_invariants(const CacheSnapshot& snapshot);

}  // namespace inflight::kv_cache
