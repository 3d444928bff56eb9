#include "backend/kv_cache/window_pool.h"

#include <numeric>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

WindowPool::WindowPool(Geometry geometry, Window window, int32_t num_blocks, bool is_reused)
    : geometry_(geometry), window_(window), num_blocks_(num_blocks) {
  validate(window);
  check(num_blocks >= 1 && num_blocks <= geometry.max_pool_blocks(), "KV pool of ", num_blocks,
        " blocks of ", geometry.tokens_per_block(), " tokens: from 1 to ",
        geometry.max_pool_blocks(), " blocks, slots are 32 bit");
  free_ids_.resize(num_blocks);
  std::iota(free_ids_.rbegin(), free_ids_.rend(), 0);  // block 0 is taken first
  ref_counts_.resize(num_blocks);
  if (is_reused) cache_ = std::make_unique<WindowCache>(num_blocks);
}

WindowPool::Table& WindowPool::at(TableId table) {
  check_internal(table >= 0 && table < static_cast<TableId>(tables_.size()), "block table ", table,
                 " has no blocks of the window of ", window_.window);
  return tables_[table];
}

void WindowPool::release_block(int32_t block) noexcept {
  if (--ref_counts_[block] > 0) return;
  if (cache_ && cache_->node_of(block) != kNoNode) {
    cache_->keep(block);
  } else {
    free_ids_.push_back(block);
  }
}

void WindowPool::evict(int32_t count) {
  for (; count > 0; --count) {
    const int32_t block = cache_->next_victim();
    cache_->detach(block);
    free_ids_.push_back(block);
    ++num_evicted_;
  }
}

void WindowPool::begin(TableId id, std::span<const NodeId> path) {
  if (id >= static_cast<TableId>(tables_.size())) tables_.resize(id + 1);
  Table& table = at(id);
  check_internal(table.num_reserved == 0, "table ", id, " of ", table.num_reserved,
                 " tokens cannot begin anew");
  const auto num_tokens = static_cast<int32_t>(path.size()) * geometry_.tokens_per_block();
  const WindowBorders borders(geometry_, window_, num_tokens);
  table.ids.assign(path.size(), kHole);
  for (int32_t i = 0; i < static_cast<int32_t>(path.size()); ++i) {
    if (i >= borders.sinks && i < borders.first) continue;
    const int32_t block = cache_->block_of(path[i]);
    if (ref_counts_[block]++ == 0) cache_->use(block);
    table.ids[i] = block;
  }
  table.num_committed = table.num_reserved = num_tokens;
  table.num_freed =
      std::max(std::min(borders.first, static_cast<int32_t>(path.size())) - borders.sinks, 0);
}

void WindowPool::store(TableId id, int32_t index, NodeId node, int32_t priority) {
  const int32_t block = at(id).ids[index];
  if (block == kHole || has(node) || cache_->node_of(block) != kNoNode) return;
  cache_->attach(block, node, priority);
}

void WindowPool::set_priority(NodeId node, int32_t priority) {
  if (has(node)) cache_->set_priority(cache_->block_of(node), priority);
}

void WindowPool::forget(NodeId node) {
  const int32_t block = cache_->block_of(node);
  if (block == kNoBlock) return;
  cache_->detach(block);
  if (ref_counts_[block] == 0) free_ids_.push_back(block);
}

bool WindowPool::grow(TableId id, int32_t num_tokens) {
  if (id >= static_cast<TableId>(tables_.size())) tables_.resize(id + 1);
  Table& table = at(id);
  check_internal(num_tokens >= table.num_reserved, "table ", id, " of ", table.num_reserved,
                 " tokens cannot grow to ", num_tokens);
  const size_t size = geometry_.num_blocks(num_tokens);
  const size_t num_fresh = size - table.ids.size();
  if (num_fresh > free_ids_.size() + num_cached_blocks()) return false;
  table.ids.reserve(size);  // the only part that may throw
  if (num_fresh > free_ids_.size()) evict(static_cast<int32_t>(num_fresh - free_ids_.size()));
  for (size_t i = 0; i < num_fresh; ++i) {
    ref_counts_[free_ids_.back()] = 1;
    table.ids.push_back(free_ids_.back());
    free_ids_.pop_back();
  }
  table.num_reserved = num_tokens;
  return true;
}

void WindowPool::shrink(TableId id, int32_t num_tokens) noexcept {
  if (id >= static_cast<TableId>(tables_.size())) return;
  Table& table = tables_[id];
  const size_t size = geometry_.num_blocks(num_tokens);
  while (table.ids.size() > size) {
    if (table.ids.back() != kHole) release_block(table.ids.back());
    table.ids.pop_back();
  }
  table.num_reserved = std::min(table.num_reserved, num_tokens);
}

void WindowPool::commit(TableId id, int32_t num_tokens) {
  Table& table = at(id);
  check_internal(num_tokens >= table.num_committed && num_tokens <= table.num_reserved,
                 "commit of ", num_tokens, " tokens to table ", id, ", which has ",
                 table.num_committed, " committed of ", table.num_reserved, " reserved");
  table.num_committed = num_tokens;
  const WindowBorders borders(geometry_, window_, num_tokens);
  for (int32_t i = borders.sinks + table.num_freed; i < borders.first; ++i) {
    release_block(table.ids[i]);
    table.ids[i] = kHole;
    ++table.num_freed;
  }
}

void WindowPool::release(TableId id) noexcept {
  if (id >= static_cast<TableId>(tables_.size())) return;
  shrink(id, 0);
  tables_[id].num_committed = tables_[id].num_freed = 0;
}

std::span<const int32_t> WindowPool::block_table(TableId id) const {
  if (id >= static_cast<TableId>(tables_.size())) return {};
  return tables_[id].ids;
}

int32_t WindowPool::num_held_blocks(TableId id) const {
  if (id >= static_cast<TableId>(tables_.size())) return 0;
  return static_cast<int32_t>(tables_[id].ids.size()) - tables_[id].num_freed;
}

WindowSnapshot WindowPool::snapshot() const {
  WindowSnapshot snapshot{
      geometry_.tokens_per_block(), window_, num_blocks_, free_ids_, ref_counts_, {}, {}};
  snapshot.nodes.assign(num_blocks_, kNoNode);
  for (int32_t block = 0; cache_ && block < num_blocks_; ++block)
    snapshot.nodes[block] = cache_->node_of(block);
  for (TableId id = 0; id < static_cast<TableId>(tables_.size()); ++id) {
    const Table& table = tables_[id];
    if (table.num_reserved == 0) continue;
    snapshot.tables.push_back({id, table.ids, table.num_committed, table.num_reserved});
  }
  return snapshot;
}

std::vector<std::string> window_violations(const WindowSnapshot& snapshot) {
  std::vector<std::string> found;
  const Geometry geometry(snapshot.tokens_per_block);
  std::vector<int32_t> num_free(snapshot.num_blocks), num_named(snapshot.num_blocks);
  const auto count = [&](std::vector<int32_t>& counts, int32_t block, const std::string& where) {
    if (block >= 0 && block < snapshot.num_blocks) {
      ++counts[block];
    } else {
      found.push_back(concat(where, " names block ", block, " of a pool of ", snapshot.num_blocks));
    }
  };
  for (int32_t block : snapshot.free_ids) count(num_free, block, "the free list");
  for (const WindowTableSnapshot& table : snapshot.tables) {
    const std::string name = concat("table ", table.table);
    if (table.num_committed < 0 || table.num_committed > table.num_reserved)
      found.push_back(concat(name, " has ", table.num_committed, " committed of ",
                             table.num_reserved, " reserved tokens"));
    const auto size = static_cast<int32_t>(table.block_ids.size());
    if (size != geometry.num_blocks(std::max(table.num_reserved, 0)))
      found.push_back(
          concat(name, " has ", size, " places for ", table.num_reserved, " reserved tokens"));
    const WindowBorders borders(geometry, snapshot.window, table.num_committed);
    for (int32_t i = 0; i < size; ++i) {
      const bool is_seen = i < borders.sinks || i >= borders.first;
      const bool is_hole = table.block_ids[i] == WindowPool::kHole;
      if (is_hole == is_seen)
        found.push_back(concat(name, " has ", is_hole ? "no" : "still a", " block at place ", i,
                               ", which later tokens ", is_seen ? "see" : "do not see"));
      if (is_hole) continue;
      const int32_t block = table.block_ids[i];
      count(num_named, block, name);
      const bool is_written = (i + 1) * snapshot.tokens_per_block > table.num_committed;
      if (is_written && block >= 0 && block < snapshot.num_blocks &&
          (snapshot.ref_counts[block] != 1 || snapshot.nodes[block] != kNoNode))
        found.push_back(concat("block ", block, " is still written by ", name, " and has ",
                               snapshot.ref_counts[block], " owners, node ",
                               snapshot.nodes[block]));
    }
  }
  for (int32_t block = 0; block < snapshot.num_blocks; ++block) {
    if (num_named[block] != snapshot.ref_counts[block])
      found.push_back(concat("block ", block, " is in ", num_named[block], " tables, its count is ",
                             snapshot.ref_counts[block]));
    const bool is_had = num_named[block] > 0 || snapshot.nodes[block] != kNoNode;
    if (num_free[block] != (is_had ? 0 : 1))
      found.push_back(concat("block ", block, " is free ", num_free[block], " times, in ",
                             num_named[block], " tables, of node ", snapshot.nodes[block]));
  }
  return found;
}

}  // namespace inflight::kv_cache
