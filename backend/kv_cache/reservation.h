// The blocks of a whole Step, taken all or not at all. Between reserve and commit the block tables
// already hold them, so that the step can run; until commit all of them can be given back.
// Engine thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace inflight::kv_cache {

class KvCacheManager;

/// One of the manager's block tables; valid from open to release.
using TableId = int32_t;

/// A sequence's part of a Step: the step writes positions [first_position, first_position +
/// num_tokens) of `table`.
struct Growth {
  TableId table = -1;
  int32_t first_position = 0;
  int32_t num_tokens = 0;
};

/// Several may be open at once (a step running, the next one planned): they commit in the order in
/// which they were made, and are given back newest first.
class Reservation {
 public:
  /// Gives back what was not committed.
  ~Reservation();
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) = delete;

  /// The step ran: its tokens count as cached.
  void commit();
  /// The step will not run: tables and pool are as before reserve.
  void give_back();
  bool is_open() const { return manager_ != nullptr; }

  /// Blocks newly taken from the pool.
  int32_t num_blocks() const { return num_blocks_; }

 private:
  friend class KvCacheManager;
  /// What one table was before, and will be.
  struct Entry {
    TableId table;
    int32_t old_num_blocks;
    int32_t old_num_reserved;  // tokens
    int32_t new_num_reserved;
  };
  Reservation(KvCacheManager& manager, uint64_t serial, std::vector<Entry> entries,
              int32_t num_blocks);

  KvCacheManager* manager_;  // null once committed or given back
  uint64_t serial_;
  std::vector<Entry> entries_;
  int32_t num_blocks_;
};

}  // namespace inflight::kv_cache
