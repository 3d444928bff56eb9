// Who holds which blocks: one block table per sequence that runs, grown a Step at a time.
// Bookkeeping only, host only; engine thread only. Knows no requests, no scheduling, no device.
//
// The life of a sequence here: match (when it is a candidate), open (when it is admitted),
// reserve + commit for every step, release (when no step in flight names it).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/geometry.h"
#include "backend/kv_cache/invariants.h"
#include "backend/kv_cache/reservation.h"

namespace inflight::kv_cache {

/// Since the start: prompts opened and what of them was already there.
struct PrefixStatistics {
  int64_t queried_tokens = 0;
  int64_t hit_tokens = 0;
  int64_t hit_blocks = 0;
};

class KvCacheManager {
 public:
  KvCacheManager(Geometry geometry, int32_t num_blocks);
  ~KvCacheManager();  // every reservation must be closed by then
  KvCacheManager(const KvCacheManager&) = delete;
  KvCacheManager& operator=(const KvCacheManager&) = delete;

  /// Tokens at the start of `prompt` whose blocks are already there, less than all of them: where
  /// its first chunk begins. Takes nothing. Always 0 in this version, which shares no blocks.
  int32_t match(std::span<const int32_t> prompt) const;

  /// A new block table for a sequence that starts with `prompt`; it begins with what match finds.
  TableId open(std::span<const int32_t> prompt = {});

  /// Grows every table for its part of the step, or none: nothing is taken, and nullopt returned,
  /// if the pool has too few free blocks for all. A table may be named once; its `first_position`
  /// is where it ends: after its committed tokens and those of reservations still open.
  std::optional<Reservation> reserve(std::span<const Growth> step);

  /// Gives the table's blocks back; no open reservation may name it.
  void release(TableId table);

  /// The block ids of a table in order of position, those of open reservations too. Valid until
  /// the next reserve, give back or release.
  std::span<const int32_t> block_table(TableId table) const { return at(table).blocks.ids(); }
  /// Tokens of committed steps.
  int32_t num_cached_tokens(TableId table) const { return at(table).num_committed; }

  const Geometry& geometry() const { return geometry_; }
  int32_t num_blocks() const { return pool_.num_blocks(); }
  int32_t num_free_blocks() const { return pool_.num_free(); }
  int32_t num_used_blocks() const { return pool_.num_used(); }
  int32_t num_tables() const { return num_tables_; }
  const PrefixStatistics& prefix_statistics() const { return prefix_statistics_; }

  /// For check_invariants; O(blocks).
  CacheSnapshot snapshot() const;

 private:
  friend class Reservation;
  struct Table {
    BlockList blocks;
    int32_t num_committed = 0;  // tokens
    int32_t num_reserved = 0;   // tokens, those committed included
    int32_t num_open_reservations = 0;
    uint64_t newest_reservation = 0;  // serial
    bool is_open = false;
  };
  const Table& at(TableId table) const;
  Table& at(TableId table) { return const_cast<Table&>(std::as_const(*this).at(table)); }

  Geometry geometry_;
  BlockPool pool_;
  std::vector<Table> tables_;
  std::vector<TableId> free_tables_;  // a stack
  int32_t num_tables_ = 0;
  PrefixStatistics prefix_statistics_;
  int32_t num_open_reservations_ = 0;
  uint64_t newest_reservation_ = 0;                            // serial
  std::vector<std::vector<Reservation::Entry>> spare_memory_;  // of closed reservations
};

}  // namespace inflight::kv_cache
