#include "backend/scheduler/capacity.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::scheduler {
namespace {

/// Blocks that the sequence may still ask for.
int64_t blocks_to_come(const SequenceView& sequence, const kv_cache::Geometry& geometry) {
  return std::max(worst_case_blocks(geometry, sequence.max_total_len) - sequence.num_blocks, 0);
}

}  // namespace

int32_t worst_case_blocks(const kv_cache::Geometry& geometry, int32_t max_total_len) {
  return geometry.num_blocks(kv_cache::max_cached_tokens(max_total_len));
}

int32_t num_admissible(const EngineView& view, const Limits& limits) {
  // One whose last token is on its way takes no place in a step any more.
  const int64_t num_running = std::ranges::count_if(
      view.running, [](const SequenceView& sequence) { return !sequence.is_complete(); });
  const int64_t num_candidates =
      std::min<int64_t>(view.waiting.size(), limits.max_running() - num_running);
  if (num_candidates <= 0) return 0;

  int64_t unclaimed = int64_t{view.cache.free_blocks} + view.cache.evictable_blocks;
  for (const SequenceView& sequence : view.running)
    unclaimed -= blocks_to_come(sequence, view.cache.geometry);
  int32_t count = 0;
  while (count < num_candidates) {
    unclaimed -= blocks_to_come(view.waiting[count], view.cache.geometry);
    if (unclaimed < 0) break;
    ++count;
  }
  return count;
}

void check_fits_pool(int32_t max_total_len, const CacheView& cache) {
  const int32_t needed = worst_case_blocks(cache.geometry, max_total_len);
  check(needed <= cache.num_blocks, "prompt and output of ", max_total_len, " tokens need ", needed,
        " KV cache blocks of ", cache.geometry.tokens_per_block(), " tokens, the cache has ",
        cache.num_blocks);
}

}  // namespace inflight::scheduler
