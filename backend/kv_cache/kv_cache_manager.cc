#include "backend/kv_cache/kv_cache_manager.h"

#include <cassert>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

namespace {

CacheOptions checked(CacheOptions options) {
  check(!options.enable_reuse || options.windows.empty() || options.num_host_blocks == 0,
        "a host tier of ", options.num_host_blocks,
        " KV blocks: blocks of layers that see a window do not go there");
  // Of a block that begins alike its windows' blocks would have to be copied, too.
  if (!options.windows.empty()) options.enable_partial_reuse = false;
  return options;
}

}  // namespace

KvCacheManager::KvCacheManager(Geometry geometry, int32_t num_blocks, const CacheOptions& options)
    : geometry_(geometry),
      options_(checked(options)),
      index_(options.enable_reuse
                 ? std::make_optional<PrefixIndex>(geometry, options.vocab_size, num_blocks,
                                                   options.num_host_blocks)
                 : std::nullopt),
      pool_(num_blocks, index_ ? &*index_ : nullptr),
      host_(index_ ? options.num_host_blocks : 0),
      events_(index_ ? options.events : nullptr, geometry.tokens_per_block(), num_blocks,
              host_.num_blocks()),
      pending_words_(index_ ? size_t{kMaxPending} * index_->packing().num_words() : 0),
      tokens_(geometry.tokens_per_block()) {
  check(num_blocks <= geometry.max_pool_blocks(), "KV pool of ", num_blocks, " blocks of ",
        geometry.tokens_per_block(), " tokens: at most ", geometry.max_pool_blocks(),
        " blocks, slots are 32 bit");
  for (const WindowPoolSpec& spec : options.windows)
    windows_.emplace_back(geometry, spec.window, spec.num_blocks, options.enable_reuse);
}

KvCacheManager::~KvCacheManager() {
  assert(open_reservations_.empty());
  // Open tables give their blocks back; what they would have copied from is in no list of theirs.
  for (Table& table : tables_) {
    if (table.source.block != kNoBlock) pool_.release(std::exchange(table.source.block, kNoBlock));
  }
}

TableId KvCacheManager::new_table() {
  if (free_tables_.empty()) {
    tables_.push_back(Table{BlockList(pool_)});
    free_tables_.reserve(tables_.capacity());  // so that release never allocates
    free_tables_.push_back(static_cast<TableId>(tables_.size()) - 1);
  }
  const TableId id = free_tables_.back();
  free_tables_.pop_back();
  tables_[id].is_open = true;
  ++num_tables_;
  return id;
}

TableId KvCacheManager::open(const TableRequest& request) {
  const TableId id = new_table();
  prefix_statistics_.queried_tokens += request.tokens.size();
  if (index_) {
    begin(tables_[id], request);
    begin_in_windows(id);
    count_hits(tables_[id]);
  }
  return id;
}

std::optional<Reservation> KvCacheManager::reserve(std::span<const Growth> step) {
  const uint64_t serial = ++newest_reservation_;
  Reservation::Memory memory;
  if (!spare_memory_.empty()) {
    memory = std::move(spare_memory_.back());
    spare_memory_.pop_back();
  } else {
    spare_memory_.reserve(open_reservations_.size() + 1);  // so that closing never allocates
  }
  memory.entries.reserve(step.size());
  memory.filling.reserve(step.size());
  Reservation reservation(*this, std::move(memory), serial);  // undoes the part done, if we raise
  auto& [entries, filling] = reservation.memory_;
  growing_.clear();
  int32_t num_needed = 0;
  const int32_t size = geometry_.tokens_per_block();
  for (const Growth& growth : step) {
    Table& table = at(growth.table);
    check_internal(table.newest_reservation != serial, "table ", growth.table,
                   " is named twice in a step");
    check_internal(growth.first_position == table.num_reserved && growth.num_tokens >= 1,
                   "growth of table ", growth.table, " by ", growth.num_tokens, " tokens at ",
                   growth.first_position, "; it ends at ", table.num_reserved);
    const auto index = static_cast<int32_t>(entries.size());
    const int32_t num_tokens = growth.first_position + growth.num_tokens;
    entries.push_back({growth.table, table.blocks.size(), table.num_reserved, num_tokens});
    table.newest_reservation = serial;
    table.num_reserved = num_tokens;
    ++table.num_open_reservations;
    const int32_t room = table.blocks.size() * size;  // tokens
    if (num_tokens > room || table.lacks_start) {
      num_needed += geometry_.num_blocks(num_tokens) - table.blocks.size();
      growing_.push_back(index);
      if (geometry_.block_index(num_tokens) > geometry_.block_index(growth.first_position))
        filling.push_back(index);
    } else if (num_tokens == room) {
      filling.push_back(index);
    }
  }
  bool is_tight = false;
  if (!is_enough(step, num_needed, is_tight)) return std::nullopt;
  reservation.num_blocks_ = num_needed;
  for (WindowPool& pool : windows_) {
    for (const Growth& growth : step) {
      if (!pool.grow(growth.table, growth.first_position + growth.num_tokens)) return std::nullopt;
    }
  }
  expect_evictions(num_needed - pool_.num_free());
  for (const int32_t i : growing_) {
    Reservation::Entry& entry = entries[i];
    Table& table = tables_[entry.table];
    if (table.lacks_start) complete_start(table, is_tight);
    entry.old_num_blocks = table.blocks.size();
    const int32_t num_blocks = geometry_.num_blocks(entry.new_num_tokens);
    table.blocks.reserve(num_blocks);
    while (table.blocks.size() < num_blocks) table.blocks.append_owned(take_block());
  }
  // Only now: what is copied must not be evicted for what is written before it.
  for (const int32_t i : growing_) {
    Table& table = tables_[entries[i].table];
    if (std::exchange(table.lacks_start, false)) drop_source(table);
  }
  return reservation;
}

void KvCacheManager::release(TableId id, const TokenView& tokens) {
  Table& table = at(id);
  check_internal(table.num_open_reservations == 0, "release of table ", id, " with ",
                 table.num_open_reservations, " open reservations");
  if (table.may_store) store_last_block(table, tokens);
  drop_source(table);
  drop_missing(table);
  table.blocks.truncate(0);
  for (WindowPool& pool : windows_) pool.release(id);
  if (table.root != PrefixRoots::kNone) index_->roots().release(table.root);
  BlockList blocks = std::move(table.blocks);
  table = Table{std::move(blocks)};
  free_tables_.push_back(id);
  --num_tables_;
}

CacheSnapshot KvCacheManager::snapshot() const {
  CacheSnapshot snapshot{.tokens_per_block = geometry_.tokens_per_block(),
                         .pool = pool_.snapshot(),
                         .num_host_blocks = host_.num_blocks(),
                         .free_host_ids = host_.free_blocks()};
  for (TableId id = 0; id < static_cast<TableId>(tables_.size()); ++id) {
    const Table& table = tables_[id];
    if (!table.is_open) continue;
    const std::span<const int32_t> ids = table.blocks.ids();
    snapshot.tables.push_back(
        {.table = id,
         .block_ids = {ids.begin(), ids.end()},
         .num_committed = table.num_committed,
         .num_reserved = table.num_reserved,
         .num_to_come = table.num_missing + (table.source.num_tokens > 0 ? 1 : 0),
         .copied_block = table.source.block,
         .num_stored = table.num_stored});
  }
  for (const WindowPool& pool : windows_) snapshot.windows.push_back(pool.snapshot());
  for (const Replaced& replaced : replaced_) snapshot.replaced.push_back(replaced.block);
  if (index_) snapshot.nodes = index_->snapshot();
  return snapshot;
}

}  // namespace inflight::kv_cache
