#include "backend/kv_cache/cache_events.h"

#include <utility>

#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

constexpr size_t kMaxBlocks = 128;  // of an event: so the log's memory is bounded, too

size_t size_of(const BlocksStored& event) { return event.blocks.size(); }
size_t size_of(const BlocksRemoved& event) { return event.hashes.size(); }

}  // namespace

CacheEventLog::CacheEventLog(int64_t max_events) : max_events_(max_events) {
  check(max_events >= 1, "a log of at most ", max_events, " cache events: at least 1");
}

template <typename T>
T* CacheEventLog::newest() {
  if (events_.empty()) return nullptr;
  T* const event = std::get_if<T>(&events_.back().data);
  return event != nullptr && size_of(*event) < kMaxBlocks ? event : nullptr;
}

void CacheEventLog::append(CacheEvent event) {
  event.id = next_id_++;
  events_.push_back(std::move(event));
  if (static_cast<int64_t>(events_.size()) > max_events_) {
    events_.pop_front();
    ++num_lost_;
  }
  arrived_.notify_all();
}

void CacheEventLog::created(int64_t num_device_blocks, int64_t num_host_blocks) {
  std::lock_guard lock(mutex_);
  append({.data = CacheCreated{num_device_blocks, num_host_blocks}});
}

void CacheEventLog::stored(std::optional<uint64_t> parent_hash, StoredBlock block) {
  std::lock_guard lock(mutex_);
  auto* const event = newest<BlocksStored>();
  if (event != nullptr && event->blocks.back().hash == parent_hash) {
    event->blocks.push_back(std::move(block));
    return;
  }
  BlocksStored fresh{parent_hash, {}};
  fresh.blocks.push_back(std::move(block));
  append({.data = std::move(fresh)});
}

void CacheEventLog::removed(uint64_t hash) {
  std::lock_guard lock(mutex_);
  if (auto* const event = newest<BlocksRemoved>()) {
    event->hashes.push_back(hash);
    return;
  }
  append({.data = BlocksRemoved{{hash}}});
}

void CacheEventLog::moved(uint64_t hash, Tier from, Tier to) {
  std::lock_guard lock(mutex_);
  append({.data = BlockMoved{hash, from, to}});
}

void CacheEventLog::close() {
  std::lock_guard lock(mutex_);
  is_closed_ = true;
  arrived_.notify_all();
}

std::vector<CacheEvent> CacheEventLog::take(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  arrived_.wait_for(lock, timeout, [this] { return is_closed_ || !events_.empty(); });
  std::vector<CacheEvent> taken;
  if (num_lost_ > 0) taken.push_back({events_.front().id - 1, EventsLost{num_lost_}});
  num_lost_ = 0;
  taken.insert(taken.end(), std::make_move_iterator(events_.begin()),
               std::make_move_iterator(events_.end()));
  events_.clear();
  return taken;
}

}  // namespace inflight::kv_cache
