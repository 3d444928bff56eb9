// How one budget of memory is divided among the pools of groups of layers that see different
// windows. Pure numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/kv_cache/geometry.h"
#include "backend/kv_cache/window_geometry.h"

namespace inflight::kv_cache {

/// Layers that see the same.
struct LayerGroup {
  std::optional<Window> window;  // none: they see everything
  int64_t bytes_per_block = 0;   // over all of its layers
};

/// What an engine runs at the most.
struct CacheLoad {
  int32_t max_batch_size = 1;  // sequences at once
  int32_t max_num_tokens = 1;  // in a step
  int32_t max_seq_len = 2;     // prompt + output of a sequence
  int32_t max_steps_in_flight = 1;
};

/// Blocks for each group, of at most `budget` bytes together and at least 1 each: as many as can
/// ever be held if that fits, else such that all groups run out at once when sequences are twice as
/// long as the largest window. (Shorter ones leave a part of the pools of full attention unused,
/// longer ones a part of the windows'.) Raises invalid_argument if not even a block each fits.
std::vector<int64_t> divide_budget(std::span<const LayerGroup> groups, const Geometry& geometry,
                                   const CacheLoad& load, int64_t budget);

}  // namespace inflight::kv_cache
