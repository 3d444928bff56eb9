// The part of KvCacheManager that has to do with layers that see a window, where blocks are used
// again: what of a prefix that the tree has is whole in all pools.
#include <algorithm>
#include <array>

#include "backend/kv_cache/kv_cache_manager.h"

namespace inflight::kv_cache {

/// Each block is looked at once a pool, and none before those that a hit needs.
int32_t KvCacheManager::longest_in_windows(std::span<const NodeId> path) const {
  auto length = static_cast<int32_t>(path.size());
  for (const WindowPool& pool : windows_) {
    const int32_t num_sinks = WindowBorders(geometry_, pool.window(), 0).sinks;
    for (int32_t i = 0; i < std::min(num_sinks, length); ++i) {
      if (!pool.has(path[i])) length = i;
    }
  }
  known_.assign(windows_.size(), length);  // of each pool: blocks from there to `length` are here
  for (bool is_shorter = true; std::exchange(is_shorter, false);) {
    for (size_t g = 0; g < windows_.size(); ++g) {
      const WindowBorders borders(geometry_, windows_[g].window(),
                                  length * geometry_.tokens_per_block());
      int32_t first = std::min(known_[g], length);
      while (first > borders.first && windows_[g].has(path[first - 1])) --first;
      known_[g] = first;
      if (first <= borders.first) continue;
      length = first - 1;
      is_shorter = true;
    }
  }
  return length;
}

PrefixIndex::Found KvCacheManager::within_windows(const PrefixIndex::Found& found,
                                                  const TokenView& tokens,
                                                  const PrefixPlace& start) const {
  if (windows_.empty() || found.num_blocks == 0) return found;
  in_windows_.resize(found.num_blocks);
  index_->path(found.last.node, in_windows_);
  const int32_t length = longest_in_windows(in_windows_);
  if (length == found.num_blocks) return found;
  return index_->find(tokens, length * geometry_.tokens_per_block(), start, false);
}

void KvCacheManager::begin_in_windows(TableId id) {
  const Table& table = tables_[id];
  if (windows_.empty() || table.num_stored == 0) return;
  path_.resize(table.num_stored);
  index_->path(table.place.node, path_);
  for (WindowPool& pool : windows_) {
    pool.begin(id, path_);
    if (table.retention == nullptr) continue;
    for (const NodeId node : path_) pool.set_priority(node, index_->node(node).priority);
  }
}

}  // namespace inflight::kv_cache
