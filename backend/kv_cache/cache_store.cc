// The part of KvCacheManager that makes blocks that are full, or the last of their table, findable.
#include <algorithm>

#include "backend/kv_cache/kv_cache_manager.h"

namespace inflight::kv_cache {

BlockRetention KvCacheManager::retention_of(const Table& table, int32_t block_index) const {
  if (table.retention == nullptr) return {};
  const Retention& retention = *table.retention;
  const int32_t position = block_index * geometry_.tokens_per_block();
  if (position >= table.prompt_len) return {retention.decode_priority, retention.decode_duration};
  for (const RetentionRange& range : retention.ranges) {
    if (position >= range.begin && position < range.end.value_or(table.prompt_len))
      return {range.priority, range.duration};
  }
  return {};
}

void KvCacheManager::expect_store(const Growth& growth, const TokenView& tokens) const {
  const Table& table = tables_[growth.table];
  if (!table.may_store) return;
  const int32_t end = geometry_.round_down(growth.first_position + growth.num_tokens);
  const int32_t first = geometry_.round_down(growth.first_position);
  tokens.prefetch(first, end - first);
  __builtin_prefetch(&table.blocks.ids().back());
}

void KvCacheManager::store_full_blocks(const Reservation::Memory& step,
                                       const Reservation::TokensOf& tokens_of) {
  const int32_t size = geometry_.tokens_per_block();
  pending_.clear();
  for (const int32_t i : step.filling) {
    const TableId id = step.entries[i].table;
    Table& table = tables_[id];
    if (!table.may_store) continue;
    index_->prefetch_header(table.place.node);
    const TokenView tokens = tokens_of ? tokens_of(i) : TokenView();
    uint64_t hash = table.place.hash;
    for (int32_t first = table.num_stored * size; first + size <= progress_[id].num_committed;
         first += size) {
      if (pending_.size() == kMaxPending) store_pending();
      uint32_t* words = pending_words_.data() + pending_.size() * index_->packing().num_words();
      bool is_packed = false;
      if (tokens.size() >= first + size) {
        tokens.copy(first, size, tokens_.data());
        is_packed = index_->packing().pack(tokens_.data(), size, words);
      }
      if (!is_packed) {  // others behind the gap could not be reached
        store_pending();
        table.may_store = false;
        break;
      }
      hash = index_->packing().chain_hash(hash, words, size);
      pending_.push_back({id, hash});
      index_->prefetch_bucket(hash);
      index_->prefetch_node_of(table.blocks.ids()[first / size]);
      // As many as are stored must go soon: their memory comes meanwhile.
      const int32_t victim = index_->prefetch_next_victim();
      if (victim != kNoBlock) pool_.prefetch(victim);
    }
  }
  store_pending();
}

void KvCacheManager::store_pending() {
  const int32_t num_words = index_->packing().num_words();
  for (const PendingStore& pending : pending_) index_->prefetch_candidate(pending.hash);
  for (const PendingStore& pending : pending_) index_->prefetch_second(pending.hash);
  const uint32_t* words = pending_words_.data();
  for (const auto& [id, hash] : pending_) {
    Table& table = tables_[id];
    const int32_t i = table.num_stored;
    const PrefixIndex::Stored stored =
        index_->store(table.place, {hash, words, geometry_.tokens_per_block()},
                      table.blocks.ids()[i], retention_of(table, i));
    ++table.num_stored;
    for (WindowPool& pool : windows_)
      pool.store(id, i, stored.node, index_->node(stored.node).priority);
    if (stored.is_new) {
      ++prefix_statistics_.stored_blocks;
      if (events_.are_heard()) {
        const PrefixNode& node = index_->node(stored.node);
        index_->copy_tokens(stored.node, tokens_);
        events_.stored(stored.node, node.parent, index_->roots(), hash, tokens_, node.priority);
      }
    } else {
      use_stored(id, i, stored.node);
    }
    words += num_words;
  }
  pending_.clear();
}

void KvCacheManager::use_stored(TableId table_id, int32_t block_index, NodeId id) {
  Table& table = tables_[table_id];
  const PrefixNode& node = index_->node(id);
  if (!node.is_in(Tier::kDevice)) {  // what was computed again need not come from the host
    index_->use_node(id);
    index_->add_device_block(id, table.blocks.ids()[block_index]);
    drop_host_block(id);
    return;
  }
  const int32_t block = node.block(Tier::kDevice);
  const bool is_still_read = progress_[table_id].num_open_reservations > 0;
  if (is_still_read)  // first, as it may raise
    replaced_.push_back({newest_reservation_, table.blocks.ids()[block_index]});
  pool_.retain(block);
  const int32_t old = table.blocks.replace(block_index, block);
  if (!is_still_read) pool_.release(old);
}

void KvCacheManager::free_replaced() {
  const auto oldest = std::ranges::min_element(open_reservations_);
  std::erase_if(replaced_, [&](const Replaced& replaced) {
    if (oldest != open_reservations_.end() && *oldest <= replaced.newest_reservation) return false;
    pool_.release(replaced.block);
    return true;
  });
}

void KvCacheManager::store_last_block(TableId id, const TokenView& tokens) {
  Table& table = tables_[id];
  const int32_t num_committed = progress_[id].num_committed;
  const int32_t first = table.num_stored * geometry_.tokens_per_block();
  const int32_t count = num_committed - first;
  if (!options_.enable_partial_reuse || count <= 0 || tokens.size() < num_committed ||
      table.num_missing > 0 || table.num_stored >= table.blocks.size())
    return;
  const int32_t block = table.blocks.ids()[table.num_stored];
  if (pool_.ref_count(block) > 1) return;
  tokens.copy(first, count, tokens_.data());
  const std::span<const int32_t> last(tokens_.data(), count);
  if (index_->covers(table.place, last)) return;
  uint32_t* const words = pending_words_.data();
  if (!index_->packing().pack(last.data(), count, words)) return;
  const uint64_t hash = index_->packing().chain_hash(table.place.hash, words, count);
  const PrefixIndex::Stored stored = index_->store(table.place, {hash, words, count}, block,
                                                   retention_of(table, table.num_stored));
  if (stored.is_new) ++prefix_statistics_.stored_blocks;
}

}  // namespace inflight::kv_cache
