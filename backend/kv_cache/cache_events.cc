#include "backend/kv_cache/cache_events.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

constexpr size_t kMaxBlocks = 128;  // of an event: so the log's memory is bounded, too

size_t size_of(const BlocksStored& event) { return event.blocks.size(); }
size_t size_of(const BlocksRemoved& event) { return event.hashes.size(); }

int64_t num_tokens(const CacheEvent& event) {
  const auto* stored = std::get_if<BlocksStored>(&event.data);
  if (stored == nullptr) return 1;
  return static_cast<int64_t>(stored->blocks.size() * stored->blocks[0].token_ids.size());
}

}  // namespace

CacheEventLog::CacheEventLog(int64_t max_events) : max_events_(max_events) {
  check(max_events >= 1, "a log of at most ", max_events, " cache events: at least 1");
}

template <typename T>
T* CacheEventLog::newest() {
  if (events_.empty() || events_.back()->id < next_unread_) return nullptr;
  T* const event = std::get_if<T>(&events_.back()->data);
  return event != nullptr && size_of(*event) < kMaxBlocks ? event : nullptr;
}

void CacheEventLog::append(CacheEvent event) {
  event.id = next_id_++;
  events_.push_back(std::make_shared<CacheEvent>(std::move(event)));
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

CacheEvents CacheEventLog::take(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  arrived_.wait_for(lock, timeout, [this] { return is_closed_ || !events_.empty(); });
  CacheEvents taken;
  if (num_lost_ > 0)
    taken.push_back(
        std::make_shared<CacheEvent>(CacheEvent{first_kept() - 1, EventsLost{num_lost_}}));
  num_lost_ = 0;
  taken.insert(taken.end(), events_.begin(), events_.end());
  events_.clear();
  return taken;
}

CacheEvents CacheEventLog::read(int64_t first_id, int64_t max_tokens) {
  std::lock_guard lock(mutex_);
  if (first_id > next_id_) first_id = 0;
  CacheEvents events;
  int64_t tokens_left = max_tokens;
  const auto first = static_cast<size_t>(std::max<int64_t>(0, first_id - first_kept()));
  for (size_t i = first; i < events_.size() && tokens_left > 0; ++i) {
    tokens_left -= num_tokens(*events_[i]);
    events.push_back(events_[i]);
  }
  if (!events.empty()) next_unread_ = std::max(next_unread_, events.back()->id + 1);
  return events;
}

}  // namespace inflight::kv_cache
