// What happens to reusable blocks, for those who route requests to where their prefix is cached.
// The engine thread appends; any thread takes, or reads from an id on. Bounded: who is too slow
// learns how much was lost. Knows blocks by the hash of their tokens and of all before them, never
// by their place.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "backend/kv_cache/block_copy.h"

namespace inflight::kv_cache {

/// A block that later prompts can find from now on.
struct StoredBlock {
  uint64_t hash = 0;  // of its parent's hash and its tokens
  std::vector<int32_t> token_ids;
  Tier tier = Tier::kDevice;
  int32_t priority = 0;
};

/// The first event: what there is room for.
struct CacheCreated {
  int64_t num_device_blocks = 0;
  int64_t num_host_blocks = 0;
};
/// Each block is the parent of the next.
struct BlocksStored {
  // None: the first block is the start of prompts. Of those of a scope (a salt, an adapter) it is
  // the scope's, which no block has.
  std::optional<uint64_t> parent_hash;
  std::vector<StoredBlock> blocks;
};
/// They are found no more.
struct BlocksRemoved {
  std::vector<uint64_t> hashes;
};
struct BlockMoved {
  uint64_t hash = 0;
  Tier from = Tier::kDevice;
  Tier to = Tier::kHost;
};
/// So many older events were dropped: what is known of the cache is not to be trusted.
struct EventsLost {
  int64_t num_events = 0;
};

struct CacheEvent {
  int64_t id = 0;  // counted from 0, those lost included
  std::variant<CacheCreated, BlocksStored, BlocksRemoved, BlockMoved, EventsLost> data;
};

using CacheEvents = std::vector<std::shared_ptr<const CacheEvent>>;

class CacheEventLog {
 public:
  /// Keeps at most `max_events` events that nobody has taken, at least one, of 128 blocks at most.
  explicit CacheEventLog(int64_t max_events);

  // The engine's thread.
  void created(int64_t num_device_blocks, int64_t num_host_blocks);
  void stored(std::optional<uint64_t> parent_hash, StoredBlock block);
  void removed(uint64_t hash);
  void moved(uint64_t hash, Tier from, Tier to);

  /// All that have not been taken, oldest first, and before them how many were lost, if any. If
  /// there are none it waits, no longer than `timeout`. Any thread; each event goes to one taker.
  CacheEvents take(std::chrono::nanoseconds timeout = {});
  /// Those that are kept of the ids from `first_id` on, oldest first, which stay; no more than have
  /// about `max_tokens` tokens together, but one at least. All that are kept if `first_id` is
  /// beyond the next one: it is of another log. Any thread; does not wait.
  CacheEvents read(int64_t first_id, int64_t max_tokens);
  /// Nobody waits any more.
  void close();

 private:
  /// The newest event, if it is a T with fewer than kMaxBlocks blocks; under mutex_.
  template <typename T>
  T* newest();
  void append(CacheEvent event);  // under mutex_
  int64_t first_kept() const { return next_id_ - static_cast<int64_t>(events_.size()); }

  const int64_t max_events_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::shared_ptr<CacheEvent>> events_;
  bool is_closed_ = false;
  int64_t next_id_ = 0;
  int64_t next_unread_ = 0;  // those before it have been read: they grow no more
  int64_t num_lost_ = 0;     // since the last take
};

}  // namespace inflight::kv_cache
