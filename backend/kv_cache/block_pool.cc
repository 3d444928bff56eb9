#include "backend/kv_cache/block_pool.h"

#include <cassert>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

BlockPool::BlockPool(int32_t num_blocks) {
  check(num_blocks >= 1, "KV pool of ", num_blocks, " blocks: at least 1 is needed");
  ref_counts_.resize(num_blocks);
  free_ids_.resize(num_blocks);
  std::iota(free_ids_.rbegin(), free_ids_.rend(), 0);  // block 0 is taken first
}

BlockPool::~BlockPool() { assert(num_used() == 0 && "KV blocks did not come home"); }

int32_t BlockPool::ref_count(int32_t block_id) const {
  check_internal(block_id >= 0 && block_id < num_blocks(), "block ", block_id, " of a pool of ",
                 num_blocks());
  return ref_counts_[block_id];
}

PoolSnapshot BlockPool::snapshot() const { return {num_blocks(), free_ids_, ref_counts_}; }

int32_t BlockPool::take() {
  assert(!free_ids_.empty());
  const int32_t block_id = free_ids_.back();
  free_ids_.pop_back();
  assert(ref_counts_[block_id] == 0);
  ref_counts_[block_id] = 1;
  return block_id;
}

void BlockPool::retain(int32_t block_id) {
  assert(ref_counts_[block_id] > 0);
  ++ref_counts_[block_id];
}

void BlockPool::release(int32_t block_id) {
  assert(ref_counts_[block_id] > 0);
  // Never allocates: free_ids_ was as long as the pool from the start.
  if (--ref_counts_[block_id] == 0) free_ids_.push_back(block_id);
}

BlockList::BlockList(BlockList&& other) noexcept
    : pool_(other.pool_), ids_(std::exchange(other.ids_, {})) {}

BlockList& BlockList::operator=(BlockList&& other) noexcept {
  if (this != &other) {
    truncate(0);
    pool_ = other.pool_;
    ids_ = std::exchange(other.ids_, {});
  }
  return *this;
}

void BlockList::append_fresh(int32_t count) {
  check_internal(count >= 0 && count <= pool_->num_free(), "asked for ", count, " blocks with ",
                 pool_->num_free(), " free");
  const size_t old_size = ids_.size();
  ids_.resize(old_size + count);  // the only part that may throw
  for (size_t i = old_size; i < ids_.size(); ++i) ids_[i] = pool_->take();
}

void BlockList::append_shared(const BlockList& other, int32_t index) {
  check_internal(other.pool_ == pool_, "blocks of another pool cannot be shared");
  check_internal(index >= 0 && index < other.size(), "block ", index, " of a list of ",
                 other.size());
  const int32_t block_id = other.ids_[index];
  ids_.push_back(block_id);
  pool_->retain(block_id);
}

void BlockList::truncate(int32_t size) {
  while (static_cast<int32_t>(ids_.size()) > size) {
    pool_->release(ids_.back());
    ids_.pop_back();
  }
}

}  // namespace inflight::kv_cache
