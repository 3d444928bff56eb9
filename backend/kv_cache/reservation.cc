#include "backend/kv_cache/reservation.h"

#include <algorithm>
#include <utility>

#include "backend/kv_cache/kv_cache_manager.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {

Reservation::Reservation(KvCacheManager& manager, Memory memory, uint64_t serial)
    : manager_(&manager), memory_(std::move(memory)), serial_(serial) {
  manager_->open_reservations_.push_back(serial_);
}

Reservation::Reservation(Reservation&& other) noexcept
    : manager_(std::exchange(other.manager_, nullptr)),
      memory_(std::move(other.memory_)),
      serial_(other.serial_),
      num_blocks_(other.num_blocks_) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    if (is_open()) undo();
    manager_ = std::exchange(other.manager_, nullptr);
    memory_ = std::move(other.memory_);
    serial_ = other.serial_;
    num_blocks_ = other.num_blocks_;
  }
  return *this;
}

Reservation::~Reservation() {
  if (is_open()) undo();
}

void Reservation::commit(const TokensOf& tokens_of) {
  check_internal(is_open(), "commit of a closed reservation");
  if (tokens_of && manager_->reuses_blocks()) {
    for (const int32_t i : memory_.filling)
      manager_->prefetch(manager_->tables_[memory_.entries[i].table]);
    for (const int32_t i : memory_.filling)
      manager_->expect_store(memory_.entries[i], tokens_of(i));
  }
  const std::vector<Growth>& entries = memory_.entries;
  auto* const progress = manager_->progress_.data();
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto [table, first_position, num_tokens] = entries[i];
    const int32_t num_committed = progress[table].num_committed;
    if (num_committed != first_position) [[unlikely]] {
      while (i-- > 0) {  // what was done so far
        progress[entries[i].table].num_committed = entries[i].first_position;
        ++progress[entries[i].table].num_open_reservations;
      }
      check_internal(false, "table ", table, " has ", num_committed,
                     " committed tokens, the reservation begins at ", first_position);
    }
    progress[table].num_committed = first_position + num_tokens;
    --progress[table].num_open_reservations;
  }
  manager_->store_full_blocks(memory_, tokens_of);
  // Then: blocks that the windows leave behind may have been stored.
  for (WindowPool& pool : manager_->windows_) {
    for (const Growth& entry : entries)
      pool.commit(entry.table, entry.first_position + entry.num_tokens);
  }
  close();
}

void Reservation::give_back() {
  check_internal(is_open(), "give back of a closed reservation");
  for (const Growth& entry : memory_.entries) {
    const int32_t end = entry.first_position + entry.num_tokens;
    const int32_t num_reserved = manager_->progress_of(entry.table).num_reserved;
    check_internal(num_reserved == end, "table ", entry.table, " is reserved to token ",
                   num_reserved, ", the reservation ends at ", end);
  }
  undo();
}

// Newest first this restores the state before reserve. In another order, when everything unwinds,
// the oldest reservation's state remains: never more than the newer ones would leave.
void Reservation::undo() noexcept {
  for (auto entry = memory_.entries.rbegin(); entry != memory_.entries.rend(); ++entry) {
    auto& table = manager_->tables_[entry->table];
    // One that lacks its start still got nothing.
    if (!table.lacks_start)
      table.blocks.truncate(manager_->geometry_.num_blocks(entry->first_position));
    manager_->update_room(entry->table);
    for (WindowPool& pool : manager_->windows_) pool.shrink(entry->table, entry->first_position);
    auto& progress = manager_->progress_[entry->table];
    progress.num_reserved = std::min(progress.num_reserved, entry->first_position);
    --progress.num_open_reservations;
  }
  close();
}

void Reservation::close() noexcept {
  memory_.entries.clear();
  memory_.filling.clear();
  manager_->spare_memory_.push_back(std::move(memory_));
  std::erase(manager_->open_reservations_, serial_);
  manager_->free_replaced();
  manager_ = nullptr;
}

}  // namespace inflight::kv_cache
