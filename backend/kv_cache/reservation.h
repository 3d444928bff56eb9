// The blocks of a whole Step, taken all or not at all. Between reserve and commit the block tables
// already hold them, so that the step can run; until commit all of them can be given back.
// Engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "backend/kv_cache/prefix.h"

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

/// Several may be open at once (a step running, the next one planned). They commit in the order in
/// which they were made, and are given back newest first; destructors may run in any order.
class Reservation {
 public:
  /// Gives back what was not committed.
  ~Reservation();
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;  // as if the old one were destroyed

  /// Tokens of the i-th table of reserve, as far as they are known. Asked for where blocks are used
  /// again and one becomes full.
  using TokensOf = std::function<TokenView(int32_t)>;
  /// The step ran: its tokens count as cached. A block that is full with known tokens can be
  /// matched from now on, and one whose like is there already is replaced by that. Without tokens
  /// none can. Raises internal, with nothing changed, if an older reservation of one of the tables
  /// is not committed.
  void commit(const TokensOf& tokens_of = {});
  /// The step will not run: tables and pool are as before reserve. Raises internal, with nothing
  /// changed, if a newer reservation of one of the tables is still open.
  void give_back();
  bool is_open() const { return manager_ != nullptr; }

  /// Blocks newly taken from the pool, those that begin as copies included.
  int32_t num_blocks() const { return num_blocks_; }

 private:
  friend class KvCacheManager;
  /// Vectors that closed reservations leave to later ones.
  struct Memory {
    std::vector<Growth> entries;   // of the step
    std::vector<int32_t> filling;  // indices of entries by which a block becomes full
  };
  Reservation(KvCacheManager& manager, Memory memory, uint64_t serial);
  void undo() noexcept;
  void close() noexcept;

  KvCacheManager* manager_;  // null once closed
  Memory memory_;
  uint64_t serial_ = 0;
  int32_t num_blocks_ = 0;
};

}  // namespace inflight::kv_cache
