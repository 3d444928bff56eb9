// Which copies of a list may run together, when those between the tiers have a stream of their own:
// what overlaps must not change what the list means (block_copy.h). Pure numbers.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

#include "backend/kv_cache/block_copy.h"

namespace inflight::kv_cache {

/// First `between_tiers`, one after another; when they are done `on_device`, in any order.
struct CopyPhase {
  std::vector<BlockCopy> between_tiers;
  std::vector<BlockCopy> on_device;  // no block is written by one and named by another
};

class CopyOrder {
 public:
  /// The phases of a list, one after another; they hold until the next call. Usually one: a copy
  /// between the tiers that comes after a copy on the device goes before it unless they name the
  /// same block. Raises internal for a copy inside the host tier.
  std::span<const CopyPhase> arrange(std::span<const BlockCopy> copies);

 private:
  CopyPhase& next_phase();

  std::vector<CopyPhase> phases_;  // memory used again
  size_t num_phases_ = 0;
  std::unordered_set<int32_t> read_;     // by on_device of the newest phase
  std::unordered_set<int32_t> written_;  // likewise
};

}  // namespace inflight::kv_cache
