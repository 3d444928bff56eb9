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
    progress_.resize(tables_.size());
    free_tables_.reserve(tables_.capacity());  // so that release never allocates
    free_tables_.push_back(static_cast<TableId>(tables_.size()) - 1);
  }
  const TableId id = free_tables_.back();
  free_tables_.pop_back();
  progress_[id] = {.is_open = true};
  ++num_tables_;
  return id;
}

TableId KvCacheManager::open(const TableRequest& request) {
  const TableId id = new_table();
  prefix_statistics_.queried_tokens += request.tokens.size();
  if (index_) {
    begin(id, request);
    begin_in_windows(id);
    count_hits(id);
  }
  return id;
}

std::optional<Reservation> KvCacheManager::reserve(std::span<const Growth> step) {
  if (static_cast<uint32_t>(++newest_reservation_) == 0) ++newest_reservation_;  // 0: in none
  const uint64_t serial = newest_reservation_;
  Reservation::Memory memory;
  if (!spare_memory_.empty()) {
    memory = std::move(spare_memory_.back());
    spare_memory_.pop_back();
  } else {
    spare_memory_.reserve(open_reservations_.size() + 1);  // so that closing never allocates
  }
  memory.entries.assign(step.begin(), step.end());
  memory.filling.reserve(step.size());
  Reservation reservation(*this, std::move(memory), serial);  // undoes the part done, if we raise
  auto& [entries, filling] = reservation.memory_;
  growing_.clear();
  starting_.clear();
  int32_t num_needed = 0;
  const auto mark = static_cast<uint32_t>(serial);
  Progress* const all = progress_.data();
  const size_t num_tables = progress_.size();
  for (size_t i = 0; i < step.size(); ++i) {
    const Growth& growth = step[i];
    if (static_cast<size_t>(growth.table) >= num_tables || !all[growth.table].is_open ||
        all[growth.table].newest_reservation == mark ||
        all[growth.table].num_reserved != growth.first_position || growth.num_tokens < 1)
        [[unlikely]] {
      entries.resize(i);  // to be undone
      refuse(growth, mark);
    }
    Progress& progress = all[growth.table];
    const int32_t num_tokens = growth.first_position + growth.num_tokens;
    progress.newest_reservation = mark;
    progress.num_reserved = num_tokens;
    ++progress.num_open_reservations;
    if (num_tokens < progress.room) continue;
    const auto index = static_cast<int32_t>(i);
    if (num_tokens > progress.room) {
      prefetch(tables_[growth.table]);
      growing_.push_back(index);
    }
    if (geometry_.block_index(num_tokens) > geometry_.block_index(growth.first_position))
      filling.push_back(index);
  }
  for (const int32_t i : growing_) {
    const BlockList& blocks = tables_[step[i].table].blocks;
    num_needed += geometry_.num_blocks(step[i].first_position + step[i].num_tokens) - blocks.size();
    __builtin_prefetch(blocks.ids().data() + blocks.size(), 1);
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
    const Growth& growth = entries[i];
    Table& table = tables_[growth.table];
    if (table.lacks_start) {
      starting_.push_back(i);
      complete_start(table, is_tight);
      table.lacks_start = false;
    }
    const int32_t num_blocks = geometry_.num_blocks(growth.first_position + growth.num_tokens);
    table.blocks.reserve(num_blocks);
    while (table.blocks.size() < num_blocks) table.blocks.append_owned(take_block());
    update_room(growth.table);
  }
  // Only now: what is copied must not be evicted for what is written before it.
  for (const int32_t i : starting_) drop_source(tables_[entries[i].table]);
  return reservation;
}

void KvCacheManager::refuse(const Growth& growth, uint32_t mark) const {
  const Progress& progress = progress_of(growth.table);
  check_internal(progress.newest_reservation != mark, "table ", growth.table,
                 " is named twice in a step");
  check_internal(false, "growth of table ", growth.table, " by ", growth.num_tokens, " tokens at ",
                 growth.first_position, "; it ends at ", progress.num_reserved);
}

void KvCacheManager::release(TableId id, const TokenView& tokens) {
  Table& table = at(id);
  check_internal(progress_[id].num_open_reservations == 0, "release of table ", id, " with ",
                 progress_[id].num_open_reservations, " open reservations");
  if (table.may_store) store_last_block(id, tokens);
  drop_source(table);
  drop_missing(table);
  expect_changes(table.blocks.ids());
  table.blocks.truncate(0);
  for (WindowPool& pool : windows_) pool.release(id);
  if (table.root != PrefixRoots::kNone) index_->roots().release(table.root);
  BlockList blocks = std::move(table.blocks);
  table = Table{std::move(blocks)};
  progress_[id] = {};
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
    if (!is_open(id)) continue;
    const std::span<const int32_t> ids = table.blocks.ids();
    snapshot.tables.push_back(
        {.table = id,
         .block_ids = {ids.begin(), ids.end()},
         .num_committed = progress_[id].num_committed,
         .num_reserved = progress_[id].num_reserved,
         .room = progress_[id].room,
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
