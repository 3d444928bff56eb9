// Which blocks of the KV pool are free and who counts on the others. Bookkeeping only: ids and
// reference counts, no memory, no device. Engine thread only. Every operation is O(1) a block.
// A block is free, used, or kept: nobody counts on it, but somebody remembers what it holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/kv_cache/large_array.h"

namespace inflight::kv_cache {

class BlockList;

/// What the pool looks like, for the invariants and for tests.
struct PoolSnapshot {
  int32_t num_blocks = 0;
  std::vector<int32_t> free_ids;    // in no promised order
  std::vector<int32_t> ref_counts;  // [num_blocks]; 0: free or kept
};

/// Who remembers blocks that nobody uses any more.
class BlockKeeper {
 public:
  /// Nobody uses the block any more: true if it is kept, false if it is to be free.
  virtual bool keep(int32_t block_id) = 0;
  /// A kept block is used again.
  virtual void use(int32_t block_id) = 0;

 protected:
  ~BlockKeeper() = default;
};

class BlockPool {
 public:
  /// `keeper`, if any, outlives the pool's use.
  explicit BlockPool(int32_t num_blocks, BlockKeeper* keeper = nullptr);
  /// Asserts that every block is home: the release of a BlockList that outlives its pool would
  /// write to freed memory.
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  int32_t num_blocks() const { return static_cast<int32_t>(ref_counts_.size()); }
  int32_t num_free() const { return num_free_; }
  int32_t num_kept() const { return num_kept_; }
  int32_t num_used() const { return num_blocks() - num_free_ - num_kept_; }
  int32_t ref_count(int32_t block_id) const;
  PoolSnapshot snapshot() const;

  /// A kept block is remembered no longer: it is free.
  void let_go(int32_t block_id);
  /// One more, or one fewer, counts on a used or kept block, whose id is held elsewhere.
  void retain(int32_t block_id);
  void release(int32_t block_id);
  /// A free block, which there must be, with one that counts on it.
  int32_t take();
  /// Something of the block is called soon.
  void prefetch(int32_t block_id) const { __builtin_prefetch(&ref_counts_[block_id]); }

 private:
  static constexpr int32_t kNone = -1;
  void put_free(int32_t block_id);

  // By block: how many count on it; for a free one -2 - the next free one.
  LargeArray<int32_t> ref_counts_;
  int32_t first_free_ = kNone;  // a stack: the block given back last is taken first
  int32_t num_free_ = 0;
  int32_t num_kept_ = 0;
  BlockKeeper* const keeper_;
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

  /// Takes over a reference that the caller had.
  void append_owned(int32_t block_id) { ids_.push_back(block_id); }
  /// Takes `count` fresh blocks; raises internal, with nothing taken, if fewer are free.
  void append_fresh(int32_t count);
  /// Another reference to block `index` of `other`, which is of the same pool.
  void append_shared(const BlockList& other, int32_t index);
  /// Another reference to a block that is used or kept.
  void append_kept(int32_t block_id);
  /// Block `index` is `block_id` from now on, with a reference that the caller had; the one to the
  /// old block, which is returned, is the caller's.
  int32_t replace(int32_t index, int32_t block_id);
  /// Makes room, so that growing to `size` does not allocate.
  void reserve(int32_t size) {
    if (static_cast<size_t>(size) > ids_.capacity())
      ids_.reserve(std::max<size_t>(size, 2 * ids_.capacity()));
  }
  /// Gives the blocks from `size` on back, the last first.
  void truncate(int32_t size);

 private:
  BlockPool* pool_;
  std::vector<int32_t> ids_;
};

}  // namespace inflight::kv_cache
