#include "backend/kv_cache/kv_cache_manager.h"

#include <cassert>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

KvCacheManager::KvCacheManager(Geometry geometry, int32_t num_blocks, const CacheOptions& options)
    : geometry_(geometry), options_(options), pool_(num_blocks) {
  check(num_blocks <= geometry.max_pool_blocks(), "KV pool of ", num_blocks, " blocks of ",
        geometry.tokens_per_block(), " tokens: at most ", geometry.max_pool_blocks(),
        " blocks, slots are 32 bit");
}

KvCacheManager::~KvCacheManager() { assert(num_open_reservations_ == 0); }

PrefixMatch KvCacheManager::match(const TokenView&, const PrefixScope*) const { return {}; }

TableId KvCacheManager::open(const TableRequest& request) {
  if (free_tables_.empty()) {
    tables_.push_back(Table{BlockList(pool_)});
    free_tables_.reserve(tables_.capacity());  // so that release never allocates
    free_tables_.push_back(static_cast<TableId>(tables_.size()) - 1);
  }
  const TableId id = free_tables_.back();
  free_tables_.pop_back();
  tables_[id].is_open = true;
  ++num_tables_;
  prefix_statistics_.queried_tokens += request.tokens.size();
  return id;
}

int32_t KvCacheManager::num_held_blocks(TableId table) const { return at(table).blocks.size(); }

std::optional<Reservation> KvCacheManager::reserve(std::span<const Growth> step) {
  std::vector<Reservation::Entry> memory;
  if (!spare_memory_.empty()) {
    memory = std::move(spare_memory_.back());
    spare_memory_.pop_back();
  } else {
    spare_memory_.reserve(num_open_reservations_ + 1);  // so that closing never allocates
  }
  memory.reserve(step.size());
  const uint64_t serial = ++newest_reservation_;
  Reservation reservation(*this, std::move(memory));  // undoes the part done if we leave early
  for (const Growth& growth : step) {
    Table& table = at(growth.table);
    check_internal(table.newest_reservation != serial, "table ", growth.table,
                   " is named twice in a step");
    check_internal(growth.first_position == table.num_reserved && growth.num_tokens >= 1,
                   "growth of table ", growth.table, " by ", growth.num_tokens, " tokens at ",
                   growth.first_position, "; it ends at ", table.num_reserved);
    const int32_t num_tokens = growth.first_position + growth.num_tokens;
    const int32_t num_fresh = geometry_.num_blocks(num_tokens) - table.blocks.size();
    if (num_fresh > pool_.num_free()) return std::nullopt;
    reservation.entries_.push_back(
        {growth.table, table.blocks.size(), table.num_reserved, num_tokens});
    table.newest_reservation = serial;
    ++table.num_open_reservations;
    if (num_fresh > 0) table.blocks.append_fresh(num_fresh);
    table.num_reserved = num_tokens;
    reservation.num_blocks_ += num_fresh;
  }
  return reservation;
}

void KvCacheManager::release(TableId id, const TokenView&) {
  Table& table = at(id);
  check_internal(table.num_open_reservations == 0, "release of table ", id, " with ",
                 table.num_open_reservations, " open reservations");
  table.blocks.truncate(0);
  table.num_committed = table.num_reserved = 0;
  table.is_open = false;
  free_tables_.push_back(id);
  --num_tables_;
}

const KvCacheManager::Table& KvCacheManager::at(TableId id) const {
  check_internal(id >= 0 && id < static_cast<TableId>(tables_.size()) && tables_[id].is_open,
                 "block table ", id, " is not open");
  return tables_[id];
}

CacheSnapshot KvCacheManager::snapshot() const {
  CacheSnapshot snapshot{geometry_.tokens_per_block(), pool_.snapshot(), {}};
  for (TableId id = 0; id < static_cast<TableId>(tables_.size()); ++id) {
    const Table& table = tables_[id];
    if (!table.is_open) continue;
    const std::span<const int32_t> ids = table.blocks.ids();
    snapshot.tables.push_back(
        {id, {ids.begin(), ids.end()}, table.num_committed, table.num_reserved});
  }
  return snapshot;
}

}  // namespace inflight::kv_cache
