// Who holds which blocks: one block table per sequence that runs, grown a Step at a time; and which
// blocks of earlier sequences can be used again. Bookkeeping only, host only; engine thread only.
// Knows no requests, no scheduling, no device.
//
// The life of a sequence here: match (when it is a candidate), bring_ahead (what of it is in host
// memory, while it waits), open (when it is admitted),
// reserve + commit for every step, release (when no step in flight names it, or when it has to give
// way: what it computed stays to be matched until the blocks are needed).
//
// A block is free, used (by at least one table) or cached: used by none, but found by prompts that
// begin alike, and evicted when there are too few free ones.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/kv_cache/block_copy.h"
#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/cache_event_recorder.h"
#include "backend/kv_cache/geometry.h"
#include "backend/kv_cache/host_tier.h"
#include "backend/kv_cache/invariants.h"
#include "backend/kv_cache/onboarding.h"
#include "backend/kv_cache/prefix.h"
#include "backend/kv_cache/prefix_index.h"
#include "backend/kv_cache/reservation.h"
#include "backend/kv_cache/retention.h"
#include "backend/kv_cache/window_pool.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {

/// A pool of layers that see a window.
struct WindowPoolSpec {
  Window window;
  int32_t num_blocks = 0;
};

struct CacheOptions {
  bool enable_reuse = false;         // full blocks stay for later prompts that begin alike
  bool enable_partial_reuse = true;  // and of a block that begins alike, those tokens
  /// Ids at or above are never shared. The smaller, the less memory an id takes.
  int32_t vocab_size = std::numeric_limits<int32_t>::max();
  // Evicted blocks go to host memory, and come back when they are found there.
  int32_t num_host_blocks = 0;
  bool onboard_blocks = true;       // false: what is found there is computed again
  int64_t block_bytes = 0;          // to compare copying with computing
  CacheEventLog* events = nullptr;  // who hears of blocks that can be found; outlives the manager
  /// Tables grow in all pools alike. Where blocks are reused, whole ones alone are, and there is no
  /// host tier.
  std::vector<WindowPoolSpec> windows;
};

/// Since the start: prompts opened and what of them was already there.
struct PrefixStatistics {
  int64_t queried_tokens = 0;
  int64_t hit_tokens = 0;
  int64_t hit_blocks = 0;        // those that match in part included
  int64_t copied_blocks = 0;     // of them, those that match in part
  int64_t copied_tokens = 0;     // on the device, of blocks that match in part
  int64_t stored_blocks = 0;     // became findable
  int64_t evicted_blocks = 0;    // from the device
  int64_t offloaded_blocks = 0;  // of them, to the host tier
  int64_t onboarded_blocks = 0;  // came back from there, those copied in part included
  int64_t host_hit_tokens = 0;   // of hit_tokens, those
};

/// A table to be opened. What it points to outlives the table, but for the tokens.
/// When blocks that the host tier alone has are brought back. Cheaper than computing their tokens.
enum class Onboarding { kIfCheaper, kAlways };

struct TableRequest {
  TokenView tokens;                      // prompt; and what was generated before it gave way
  const PrefixScope* scope = nullptr;    // none: the default one
  const Retention* retention = nullptr;  // none: the default priority, for ever
  bool may_reuse = true;                 // false: all tokens are run, say for their logits
  /// Of a table that began with the same tokens: its last block, part full, is copied from, too.
  TableId twin = -1;
  /// Of a match of the same: if nothing has changed since, it is not looked for again.
  const PrefixLookup* lookup = nullptr;
  /// kAlways: the blocks themselves are wanted, not the time they save. Not together with a lookup.
  Onboarding onboarding = Onboarding::kIfCheaper;
};

class KvCacheManager {
 public:
  KvCacheManager(Geometry geometry, int32_t num_blocks, const CacheOptions& options = {});
  ~KvCacheManager();  // every reservation must be closed by then; tables may be open
  KvCacheManager(const KvCacheManager&) = delete;
  KvCacheManager& operator=(const KvCacheManager&) = delete;

  /// What a table opened now would begin with. Takes nothing. At most 0.5 ms for 100,000 tokens.
  /// `twin` as in TableRequest; `lookup`, if any, is written for one, and read if num_whole_tokens
  /// has written it.
  PrefixMatch match(const TokenView& tokens, const PrefixScope* scope = nullptr, TableId twin = -1,
                    PrefixLookup* lookup = nullptr) const;

  /// Tokens of the whole blocks alone of what `match` would find: who finds most is told by these.
  /// `lookup` is written for a match of the same, which need not look for them again.
  int32_t num_whole_tokens(const TokenView& tokens, const PrefixScope* scope,
                           PrefixLookup& lookup) const;

  /// Blocks of a match that are in host memory alone come back before a table is opened for them:
  /// the first ones, by at most `max_copies` copies, those of blocks that make way included. They
  /// stay cached, as the newest. May ask for copies.
  void bring_ahead(const TokenView& tokens, const PrefixScope* scope, int32_t max_copies);
  /// Copies that `num_blocks` blocks from the host tier take, those of blocks that make way
  /// included.
  int32_t num_copies_to_bring(int32_t num_blocks) const {
    return num_blocks + std::max(0, num_blocks - num_free_blocks());
  }
  /// Copies that may go with the next step without making it late, beside a step in flight that
  /// reads so many tokens of prompts (onboarding.h).
  int32_t copies_beside_step(int32_t num_prompt_tokens) const {
    return kv_cache::copies_beside_step(num_prompt_tokens, options_.block_bytes, costs_);
  }

  /// A new block table; num_cached_tokens says how many of the tokens it has already. Whole blocks
  /// are shared from now on. What needs a fresh block (a part of a block, blocks in host memory)
  /// gets it with the first reserve: until then block_table lacks those.
  TableId open(const TableRequest& request = {});

  /// Grows every table for its part of the step, or none: nullopt is returned if there are too few
  /// free and cached blocks for all. Evicts cached ones as needed. A table may be named once; its
  /// `first_position` is where it ends: after its committed tokens and those of reservations still
  /// open. May ask for copies.
  std::optional<Reservation> reserve(std::span<const Growth> step);

  /// What must be copied before the next step launched runs, in this order. The caller has it done
  /// and clears the list.
  std::span<const BlockCopy> copies() const { return copies_; }
  void clear_copies() { copies_.clear(); }

  /// Gives the table's blocks back; no open reservation may name it. With its tokens (all that are
  /// committed, at least), a last block that is part full stays to be matched, too.
  void release(TableId table, const TokenView& tokens = {});

  /// A step failed: what was cached is not to be trusted, nor what was to be copied. Cached blocks
  /// become free; tables keep their blocks, which nobody else will find.
  void forget_cached();

  /// For durations of retention; any clock that does not go back.
  void set_time(std::chrono::nanoseconds now) {
    if (index_) {
      index_->set_time(now, [this](NodeId id) {
        for (WindowPool& pool : windows_) pool.set_priority(id, index_->node(id).priority);
      });
    }
  }

  /// Measured rates, by which blocks in host memory are brought back or computed again. Not between
  /// match and the open that goes by it.
  void set_costs(const CacheCosts& costs) { costs_ = costs; }

  /// The block ids of a table in order of position, those of open reservations too. Valid until
  /// the next reserve, commit, give back or release.
  std::span<const int32_t> block_table(TableId table) const { return at(table).blocks.ids(); }
  /// The same of pool `index` of CacheOptions::windows, with holes.
  std::span<const int32_t> window_table(int index, TableId table) const {
    return windows_[index].block_table(table);
  }
  std::span<const WindowPool> window_pools() const { return windows_; }
  /// Tokens of committed steps, those that it was opened with included.
  int32_t num_cached_tokens(TableId table) const { return progress_of(table).num_committed; }
  /// The same and those of open reservations.
  int32_t num_reserved_tokens(TableId table) const { return progress_of(table).num_reserved; }
  /// That name it.
  int32_t num_open_reservations(TableId table) const {
    return progress_of(table).num_open_reservations;
  }
  /// Blocks that the table need not ask for any more.
  int32_t num_held_blocks(TableId table) const { return at(table).blocks.size(); }

  const Geometry& geometry() const { return geometry_; }
  bool reuses_blocks() const { return options_.enable_reuse; }
  int32_t num_blocks() const { return pool_.num_blocks(); }
  int32_t num_free_blocks() const { return pool_.num_free(); }
  int32_t num_cached_blocks() const { return pool_.num_kept(); }  // used by none, can be evicted
  int32_t num_used_blocks() const { return pool_.num_used(); }
  int32_t num_host_blocks() const { return host_.num_blocks(); }
  int32_t num_cached_host_blocks() const { return host_.num_blocks() - host_.num_free(); }
  int32_t num_tables() const { return num_tables_; }
  const PrefixStatistics& prefix_statistics() const { return prefix_statistics_; }

  /// For check_invariants; O(blocks).
  CacheSnapshot snapshot() const;

 private:
  friend class Reservation;
  /// Tokens at the start of a block that are copied into the table's next one.
  struct CopySource {
    int32_t num_tokens = 0;      // 0: nothing is
    int32_t block = kNoBlock;    // on the device, referenced; or
    NodeId host_node = kNoNode;  // marked as used
  };
  /// What every step reads and writes of a table, apart from the rest, as thousands are open: all
  /// there is to do for one that stays within its block.
  struct Progress {
    int32_t num_committed = 0;  // tokens
    int32_t num_reserved = 0;   // tokens, those committed included
    int32_t room = 0;           // tokens that its blocks hold; 0 while it lacks its start
    int32_t num_open_reservations = 0;
    uint32_t newest_reservation = 0;  // the lower half of its serial
    bool is_open = false;
  };
  struct alignas(64) Table {
    // What it takes to grow and to store a block: a cache line.
    BlockList blocks;
    // The rest where reuse is on.
    PrefixPlace place;  // of the first num_stored blocks
    const Retention* retention = nullptr;
    int32_t num_stored = 0;
    bool may_store = false;    // its next full block can be found by others
    bool lacks_start = false;  // what the first reserve completes: num_missing or a source

    int32_t root = PrefixRoots::kNone;
    int32_t num_missing = 0;  // of them, the last, which are in host memory and not in `blocks`
    CopySource source;
    int32_t prompt_len = 0;
  };
  static_assert(sizeof(Table) == 128);  // 2 cache lines
  /// A full block about to be stored, behind those that its table has stored.
  struct PendingStore {
    TableId table;
    uint64_t hash;
  };
  static constexpr size_t kMaxPending = 32;
  /// A block that a table has replaced while a step that reads it was in flight.
  struct Replaced {
    uint64_t newest_reservation;  // serial of the last that may read it
    int32_t block;
  };

  bool is_open(TableId id) const {
    return static_cast<size_t>(id) < progress_.size() && progress_[id].is_open;
  }
  const Table& at(TableId id) const {
    check_internal(is_open(id), "block table ", id, " is not open");
    return tables_[id];
  }
  Table& at(TableId table) { return const_cast<Table&>(std::as_const(*this).at(table)); }
  const Progress& progress_of(TableId id) const {
    check_internal(is_open(id), "block table ", id, " is not open");
    return progress_[id];
  }
  static void prefetch(const Table& table) { __builtin_prefetch(&table); }
  /// After its blocks have changed.
  void update_room(TableId id) {
    const Table& table = tables_[id];
    progress_[id].room = table.lacks_start ? 0 : table.blocks.size() * geometry_.tokens_per_block();
  }
  /// Raises: the growth is not the next of its table, or not the first in the step so marked.
  void refuse(const Growth& growth, uint32_t mark) const;

  TableId new_table();
  // cache_reuse.cc
  PrefixIndex::Found find(const TokenView& tokens, int32_t root,
                          Onboarding onboarding = Onboarding::kIfCheaper) const;
  bool is_current(const PrefixLookup& lookup, int32_t root) const {
    return lookup.root == root && lookup.num_changes == index_->num_changes();
  }
  void begin(TableId table, const TableRequest& request);
  void count_hits(TableId table);
  int32_t tokens_of_twin(const TokenView& tokens, TableId twin,
                         const PrefixIndex::Found& found) const;
  void begin_in_part(Table& table, const TableRequest& request, const PrefixIndex::Found& found);
  void drop_source(Table& table);
  void drop_missing(Table& table);
  void bring_back(Table& table, int32_t max_copies = std::numeric_limits<int32_t>::max());
  bool is_enough(std::span<const Growth> step, int32_t needed, bool& is_tight);
  void complete_start(Table& table, bool is_tight);
  // Ask for memory that is slow to come (prefix_index.h), of what is to be evicted and given back.
  void expect_evictions(int32_t count) const;
  void expect_changes(std::span<const int32_t> blocks) const;
  int32_t take_block();
  void evict_one();
  void forget(NodeId node);
  // cache_store.cc
  BlockRetention retention_of(const Table& table, int32_t block_index) const;
  void expect_store(const Growth& growth, const TokenView& tokens) const;
  void store_full_blocks(const Reservation::Memory& step, const Reservation::TokensOf& tokens_of);
  void store_pending();
  void store_last_block(TableId table, const TokenView& tokens);
  void use_stored(TableId table, int32_t block_index, NodeId node);
  void free_replaced();
  // cache_windows.cc
  int32_t longest_in_windows(std::span<const NodeId> path) const;
  PrefixIndex::Found within_windows(const PrefixIndex::Found& found, const TokenView& tokens,
                                    const PrefixPlace& start) const;
  void begin_in_windows(TableId table);
  // cache_offload.cc
  bool is_worth_onboarding(int32_t num_blocks, int32_t num_tokens, Onboarding onboarding) const;
  int32_t host_block_for(const PrefixNode& node);
  void drop_host_block(NodeId node);
  void pin_host_node(NodeId node);
  void unpin_host_node(NodeId node);

  Geometry geometry_;
  const CacheOptions options_;
  std::optional<PrefixIndex> index_;
  BlockPool pool_;
  std::vector<WindowPool> windows_;
  std::vector<Progress> progress_;  // by table
  std::vector<Table> tables_;
  HostTier host_;
  CacheEventRecorder events_;
  CacheCosts costs_;
  std::vector<TableId> free_tables_;  // a stack
  int32_t num_tables_ = 0;
  PrefixStatistics prefix_statistics_;
  std::vector<uint64_t> open_reservations_;  // serials, oldest first
  uint64_t newest_reservation_ = 0;          // serial
  std::vector<BlockCopy> copies_;
  std::vector<Replaced> replaced_;  // oldest first
  // Memory used again.
  std::vector<Reservation::Memory> spare_memory_;  // of closed reservations
  std::vector<int32_t> growing_;                   // indices of a step's tables that need blocks
  std::vector<int32_t> starting_;                  // of them, those that lacked their start
  std::vector<PendingStore> pending_;
  std::vector<uint32_t> pending_words_;  // their tokens
  std::vector<NodeId> path_;
  std::vector<int32_t> tokens_;  // of a block
  // Of matches in pools of windows.
  mutable std::vector<NodeId> in_windows_;
  mutable std::vector<int32_t> known_;
};

}  // namespace inflight::kv_cache
