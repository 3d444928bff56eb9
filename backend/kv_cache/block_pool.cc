#include "backend/kv_cache/block_pool.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

BlockPool::BlockPool(int32_t num_blocks, BlockKeeper* keeper)
    : ref_counts_(std::max(num_blocks, 0), 0), keeper_(keeper) {
  check(num_blocks >= 1, "KV pool of ", num_blocks, " blocks: at least 1 is needed");
  for (int32_t id = num_blocks - 1; id >= 0; --id) put_free(id);  // block 0 is taken first
}

BlockPool::~BlockPool() { assert(num_used() == 0 && "KV blocks did not come home"); }

int32_t BlockPool::ref_count(int32_t block_id) const {
  check_internal(block_id >= 0 && block_id < num_blocks(), "block ", block_id, " of a pool of ",
                 num_blocks());
  return std::max(0, ref_counts_[block_id]);
}

PoolSnapshot BlockPool::snapshot() const {
  PoolSnapshot snapshot{num_blocks(), {}, {}};
  for (int32_t id = first_free_; id != kNone; id = -2 - ref_counts_[id])
    snapshot.free_ids.push_back(id);
  for (int32_t count : ref_counts_) snapshot.ref_counts.push_back(std::max(0, count));
  return snapshot;
}

void BlockPool::put_free(int32_t block_id) {
  ref_counts_[block_id] = -2 - first_free_;
  first_free_ = block_id;
  ++num_free_;
}

int32_t BlockPool::take() {
  assert(num_free_ > 0);
  const int32_t block_id = first_free_;
  first_free_ = -2 - ref_counts_[block_id];
  --num_free_;
  ref_counts_[block_id] = 1;
  return block_id;
}

void BlockPool::let_go(int32_t block_id) {
  assert(ref_counts_[block_id] == 0);
  --num_kept_;
  put_free(block_id);
}

void BlockPool::retain(int32_t block_id) {
  assert(ref_counts_[block_id] >= 0);
  if (ref_counts_[block_id]++ == 0) {
    --num_kept_;
    keeper_->use(block_id);
  }
}

void BlockPool::release(int32_t block_id) {
  assert(ref_counts_[block_id] > 0);
  if (--ref_counts_[block_id] > 0) return;
  if (keeper_ != nullptr && keeper_->keep(block_id)) {
    ++num_kept_;
  } else {
    put_free(block_id);
  }
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

void BlockList::append_kept(int32_t block_id) {
  ids_.push_back(block_id);
  pool_->retain(block_id);
}

int32_t BlockList::replace(int32_t index, int32_t block_id) {
  return std::exchange(ids_[index], block_id);
}

void BlockList::truncate(int32_t size) {
  while (static_cast<int32_t>(ids_.size()) > size) {
    pool_->release(ids_.back());
    ids_.pop_back();
  }
}

}  // namespace inflight::kv_cache
