#include "backend/kv_cache/invariants.h"

#include <algorithm>

#include "backend/kv_cache/geometry.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

class Checker {
 public:
  explicit Checker(const CacheSnapshot& snapshot)
      : snapshot_(snapshot), num_blocks_(snapshot.pool.num_blocks) {}

  std::vector<std::string> run() {
    if (static_cast<int32_t>(snapshot_.pool.ref_counts.size()) != num_blocks_) {
      broken("pool of ", num_blocks_, " blocks has ", snapshot_.pool.ref_counts.size(), " counts");
      return found_;
    }
    references_.assign(num_blocks_, 0);
    for (const TableSnapshot& table : snapshot_.tables) check_table(table);
    check_free_list();
    for (int32_t block = 0; block < num_blocks_; ++block) {
      const int32_t count = snapshot_.pool.ref_counts[block];
      if (count != references_[block])
        broken("block ", block, " has count ", count, ", ", references_[block],
               " table entries name it");
    }
    for (const TableSnapshot& table : snapshot_.tables) check_writable(table);
    return found_;
  }

 private:
  void check_table(const TableSnapshot& table) {
    if (table.num_committed < 0 || table.num_committed > table.num_reserved)
      broken("table ", table.table, " has ", table.num_committed, " committed of ",
             table.num_reserved, " reserved tokens");
    const Geometry geometry(snapshot_.tokens_per_block);
    const int32_t needed = geometry.num_blocks(std::max(table.num_reserved, 0));
    if (static_cast<int32_t>(table.block_ids.size()) != needed)
      broken("table ", table.table, " has ", table.block_ids.size(), " blocks, its ",
             table.num_reserved, " tokens need ", needed);
    std::vector<int32_t> sorted = table.block_ids;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
      broken("table ", table.table, " names a block twice");
    for (int32_t block : table.block_ids) {
      if (block < 0 || block >= num_blocks_) {
        broken("table ", table.table, " names block ", block, " of a pool of ", num_blocks_);
      } else {
        ++references_[block];
      }
    }
  }

  void check_free_list() {
    std::vector<bool> is_free(num_blocks_, false);
    for (int32_t block : snapshot_.pool.free_ids) {
      if (block < 0 || block >= num_blocks_) {
        broken("block ", block, " of the free list is not of the pool of ", num_blocks_);
        continue;
      }
      if (is_free[block]) broken("block ", block, " is free twice");
      is_free[block] = true;
    }
    for (int32_t block = 0; block < num_blocks_; ++block) {
      const int32_t count = snapshot_.pool.ref_counts[block];
      if (is_free[block] && count != 0) broken("free block ", block, " has count ", count);
      if (!is_free[block] && count == 0) broken("block ", block, " is neither free nor used");
    }
  }

  void check_writable(const TableSnapshot& table) {
    const size_t first = std::max(table.num_committed, 0) / snapshot_.tokens_per_block;
    for (size_t i = first; i < table.block_ids.size(); ++i) {
      const int32_t block = table.block_ids[i];
      if (block >= 0 && block < num_blocks_ && references_[block] > 1)
        broken("block ", block, " is still written by table ", table.table, " and has ",
               references_[block], " owners");
    }
  }

  template <typename... Parts>
  void broken(const Parts&... parts) {
    found_.push_back(concat(parts...));
  }

  const CacheSnapshot& snapshot_;
  const int32_t num_blocks_;
  std::vector<int32_t> references_;  // table entries by block
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> violations(const CacheSnapshot& snapshot) {
  return Checker(snapshot).run();
}

void check_invariants(const CacheSnapshot& snapshot) {
  const std::vector<std::string> found = violations(snapshot);
  std::string message = "KV cache invariants broken:";
  for (const std::string& sentence : found) message += " " + sentence + ";";
  check_internal(found.empty(), message);
}

}  // namespace inflight::kv_cache
