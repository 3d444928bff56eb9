// Which blocks of the KV pool are free and who counts on the others. Bookkeeping only: ids and
// reference counts, no memory, no device. Engine thread only. Every operation is O(1) a block.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace inflight::kv_cache {

class BlockList;

/// What the pool looks like, for the invariants and for tests.
struct PoolSnapshot {
  int32_t num_blocks = 0;
  std::vector<int32_t> free_ids;    // in no promised order
  std::vector<int32_t> ref_counts;  // [num_blocks]
};

class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);
  /// Asserts that every block is home: the release of a BlockList that outlives its pool would
  /// write to freed memory.
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  int32_t num_blocks() const { return static_cast<int32_t>(ref_counts_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_ids_.size()); }
  int32_t num_used() const { return num_blocks() - num_free(); }
  int32_t ref_count(int32_t block_id) const;
  PoolSnapshot snapshot() const;

 private:
  friend class BlockList;
  int32_t take();  // one must be free
  void retain(int32_t block_id);
  void release(int32_t block_id);

  std::vector<int32_t> free_ids_;    // a stack: the block given back last is taken first
  std::vector<int32_t> ref_counts_;  // 0 = free
};

/// Owns one reference to each of its blocks and gives them back at its end. Its ids are a row of
/// the block tables that attention reads: contiguous, in order of position.
class BlockList {
 public:
  explicit BlockList(BlockPool& pool) : pool_(&pool) {}
  ~BlockList() { truncate(0); }
  BlockList(BlockList&& other) noexcept;
  BlockList& operator=(BlockList&& other) noexcept;

  std::span<const int32_t> ids() const { return ids_; }
  int32_t size() const { return static_cast<int32_t>(ids_.size()); }

  /// Takes `count` fresh blocks; raises internal, with nothing taken, if fewer are free.
  void append_fresh(int32_t count);
  /// Another reference to block `index` of `other`, which is of the same pool.
  void append_shared(const BlockList& other, int32_t index);
  /// Gives the blocks from `size` on back, the last first.
  void truncate(int32_t size);

 private:
  BlockPool* pool_;
  std::vector<int32_t> ids_;
};

}  // namespace inflight::kv_cache
