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
  for (const int32_t i : memory_.filling) manager_->expect_store(memory_.entries[i].table);
  for (size_t i = 0; i < memory_.entries.size(); ++i) {
    const Entry& entry = memory_.entries[i];
    auto& table = manager_->at(entry.table);
    if (table.num_committed != entry.old_num_tokens) {
      const int32_t num_committed = table.num_committed;
      while (i-- > 0) take_back(memory_.entries[i]);
      check_internal(false, "table ", entry.table, " has ", num_committed,
                     " committed tokens, the reservation begins at ", entry.old_num_tokens);
    }
    table.num_committed = entry.new_num_tokens;
    --table.num_open_reservations;
  }
  manager_->store_full_blocks(memory_, tokens_of);
  // Then: blocks that the windows leave behind may have been stored.
  for (WindowPool& pool : manager_->windows_) {
    for (const Entry& entry : memory_.entries) pool.commit(entry.table, entry.new_num_tokens);
  }
  close();
}

void Reservation::take_back(const Entry& entry) noexcept {
  auto& table = manager_->tables_[entry.table];
  table.num_committed = entry.old_num_tokens;
  ++table.num_open_reservations;
}

void Reservation::give_back() {
  check_internal(is_open(), "give back of a closed reservation");
  for (const Entry& entry : memory_.entries) {
    const auto& table = manager_->at(entry.table);
    check_internal(table.num_reserved == entry.new_num_tokens, "table ", entry.table,
                   " is reserved to token ", table.num_reserved, ", the reservation ends at ",
                   entry.new_num_tokens);
  }
  undo();
}

// Newest first this restores the state before reserve. In another order, when everything unwinds,
// the oldest reservation's state remains: never more than the newer ones would leave.
void Reservation::undo() noexcept {
  for (auto entry = memory_.entries.rbegin(); entry != memory_.entries.rend(); ++entry) {
    auto& table = manager_->tables_[entry->table];
    table.blocks.truncate(entry->old_num_blocks);
    for (WindowPool& pool : manager_->windows_) pool.shrink(entry->table, entry->old_num_tokens);
    table.num_reserved = std::min(table.num_reserved, entry->old_num_tokens);
    --table.num_open_reservations;
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
