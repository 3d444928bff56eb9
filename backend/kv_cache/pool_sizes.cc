#include "backend/kv_cache/pool_sizes.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

/// Blocks that `count` sequences of `max_total_len` tokens hold at the most.
int64_t demand(const LayerGroup& group, const Geometry& geometry, const CacheLoad& load,
               int32_t max_total_len, int64_t count) {
  if (!group.window) return count * geometry.num_blocks(max_cached_tokens(max_total_len));
  WindowDemand demand(geometry, *group.window, load.max_num_tokens, load.max_steps_in_flight);
  demand.add(max_total_len, count);
  return demand.num_blocks();
}

int32_t expected_length(std::span<const LayerGroup> groups, const CacheLoad& load) {
  int64_t length = 0;
  for (const LayerGroup& group : groups) {
    if (group.window) length = std::max(length, 2 * int64_t{group.window->window});
  }
  return length == 0 ? load.max_seq_len
                     : static_cast<int32_t>(std::min<int64_t>(length, load.max_seq_len));
}

/// Blocks of each group that can ever be held at once.
std::vector<int64_t> most_blocks(std::span<const LayerGroup> groups, const Geometry& geometry,
                                 const CacheLoad& load) {
  std::vector<int64_t> blocks;
  for (const LayerGroup& group : groups) {
    const int64_t most = demand(group, geometry, load, load.max_seq_len, load.max_batch_size);
    blocks.push_back(std::clamp<int64_t>(most, 1, geometry.max_pool_blocks()));
  }
  return blocks;
}

}  // namespace

std::vector<int64_t> divide_budget(std::span<const LayerGroup> groups, const Geometry& geometry,
                                   const CacheLoad& load, int64_t budget) {
  const std::vector<int64_t> most = most_blocks(groups, geometry, load);
  const int32_t length = expected_length(groups, load);
  // Blocks for `count` sixteenths of a sequence, so that less than one divides a small budget.
  constexpr int64_t kParts = 16;
  const auto blocks_for = [&](int64_t count) {
    std::vector<int64_t> blocks;
    for (size_t g = 0; g < groups.size(); ++g) {
      const int64_t whole = demand(groups[g], geometry, load, length, count / kParts);
      const int64_t next = demand(groups[g], geometry, load, length, count / kParts + 1);
      const int64_t between = whole + (next - whole) * (count % kParts) / kParts;
      blocks.push_back(std::clamp<int64_t>(between, 1, most[g]));
    }
    return blocks;
  };
  const auto fits = [&](const std::vector<int64_t>& blocks) {
    int64_t left = budget;
    for (size_t g = 0; g < groups.size(); ++g) {
      if (blocks[g] > left / std::max<int64_t>(groups[g].bytes_per_block, 1)) return false;
      left -= blocks[g] * groups[g].bytes_per_block;
    }
    return true;
  };
  if (fits(most)) return most;
  check(fits(blocks_for(0)), "a KV cache of ", budget, " bytes has no room for a block of each of ",
        groups.size(), " groups of layers");
  int64_t fitting = 0, too_many = int64_t{load.max_batch_size} * kParts + 1;
  // More sequences than run may be had where they are shorter than the longest.
  while (fits(blocks_for(too_many)) && blocks_for(too_many) != most) too_many *= 2;
  while (too_many - fitting > 1) {
    const int64_t middle = fitting + (too_many - fitting) / 2;
    (fits(blocks_for(middle)) ? fitting : too_many) = middle;
  }
  std::vector<int64_t> blocks = blocks_for(fitting);
  for (size_t g = 0; g < groups.size(); ++g) budget -= blocks[g] * groups[g].bytes_per_block;
  for (size_t g = 0; g < groups.size(); ++g) {  // what a sixteenth is too large for
    const int64_t bytes = std::max<int64_t>(groups[g].bytes_per_block, 1);
    const int64_t more = std::min(budget / bytes, most[g] - blocks[g]);
    blocks[g] += more;
    budget -= more * bytes;
  }
  return blocks;
}

}  // namespace inflight::kv_cache
