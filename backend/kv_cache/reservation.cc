#include "backend/kv_cache/reservation.h"

#include <algorithm>
#include <utility>

#include "backend/kv_cache/kv_cache_manager.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {

Reservation::Reservation(KvCacheManager& manager, std::vector<Entry> memory, uint64_t serial)
    : manager_(&manager), entries_(std::move(memory)), serial_(serial) {
  manager_->open_reservations_.push_back(serial_);
}

Reservation::Reservation(Reservation&& other) noexcept
    : manager_(std::exchange(other.manager_, nullptr)),
      entries_(std::move(other.entries_)),
      serial_(other.serial_),
      num_blocks_(other.num_blocks_) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    if (is_open()) undo();
    manager_ = std::exchange(other.manager_, nullptr);
    entries_ = std::move(other.entries_);
    serial_ = other.serial_;
    num_blocks_ = other.num_blocks_;
  }
  return *this;
}

Reservation::~Reservation() {
  if (is_open()) undo();
}

void Reservation::commit(std::span<const TokenView> tokens) {
  check_internal(is_open(), "commit of a closed reservation");
  check_internal(tokens.empty() || tokens.size() == entries_.size(), "commit with tokens of ",
                 tokens.size(), " tables, ", entries_.size(), " were reserved for");
  for (const Entry& entry : entries_) {
    const auto& table = manager_->at(entry.table);
    check_internal(table.num_committed == entry.old_num_tokens, "table ", entry.table, " has ",
                   table.num_committed, " committed tokens, the reservation begins at ",
                   entry.old_num_tokens);
    manager_->expect_store(table, entry.new_num_tokens);
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    auto& table = manager_->tables_[entries_[i].table];
    table.num_committed = entries_[i].new_num_tokens;
    --table.num_open_reservations;
    for (WindowPool& pool : manager_->windows_)
      pool.commit(entries_[i].table, entries_[i].new_num_tokens);
    if (table.may_store)
      manager_->store_full_blocks(table, tokens.empty() ? TokenView() : tokens[i]);
  }
  close();
}

void Reservation::give_back() {
  check_internal(is_open(), "give back of a closed reservation");
  for (const Entry& entry : entries_) {
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
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    auto& table = manager_->tables_[entry->table];
    table.blocks.truncate(entry->old_num_blocks);
    for (WindowPool& pool : manager_->windows_) pool.shrink(entry->table, entry->old_num_tokens);
    table.num_reserved = std::min(table.num_reserved, entry->old_num_tokens);
    --table.num_open_reservations;
  }
  close();
}

void Reservation::close() noexcept {
  entries_.clear();
  manager_->spare_memory_.push_back(std::move(entries_));
  std::erase(manager_->open_reservations_, serial_);
  manager_->free_replaced();
  manager_ = nullptr;
}

}  // namespace inflight::kv_cache
