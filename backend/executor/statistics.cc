#include "backend/executor/statistics.h"

#include <chrono>

namespace inflight::executor {
namespace {

int64_t unix_time_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void count_step(const scheduler::Step& step, EngineStats& stats) {
  ++stats.iteration;
  stats.scheduled_requests = static_cast<int>(step.sequences.size());
  stats.generation_requests = step.num_generating;
  stats.context_requests = stats.scheduled_requests - step.num_generating;
  stats.context_tokens = step.num_tokens - step.num_generating;
}

void take_statistics(const EngineState& state, int shown_pool, int64_t block_bytes,
                     EngineStats& stats) {
  const planning::Planner& planner = state.planner;
  const kv_cache::KvCacheManager& cache = state.cache;
  stats.timestamp_us = unix_time_us();
  stats.running_requests = static_cast<int>(planner.running().size());
  stats.waiting_requests = static_cast<int>(planner.num_waiting());
  stats.paused_requests = static_cast<int>(planner.num_paused());
  stats.preemptions = planner.num_preemptions();
  stats.active_requests = stats.running_requests + stats.waiting_requests;
  stats.cached_blocks = cache.num_cached_blocks();
  stats.free_blocks = cache.num_free_blocks() + stats.cached_blocks;
  stats.used_blocks = cache.num_used_blocks();
  if (shown_pool >= 0) {
    const kv_cache::WindowPool& pool = cache.window_pools()[shown_pool];
    stats.cached_blocks = pool.num_cached_blocks();
    stats.free_blocks = pool.num_free_blocks() + stats.cached_blocks;
    stats.used_blocks = pool.num_blocks() - stats.free_blocks;
  }
  const kv_cache::PrefixStatistics& prefixes = cache.prefix_statistics();
  stats.reused_blocks = prefixes.hit_blocks;
  stats.prefix_queried_tokens = prefixes.queried_tokens;
  stats.prefix_hit_tokens = prefixes.hit_tokens;
  stats.copied_blocks = prefixes.copied_blocks;
  stats.evicted_blocks = prefixes.evicted_blocks;
  for (const kv_cache::WindowPool& pool : cache.window_pools())
    stats.evicted_blocks += pool.num_evicted_blocks();
  stats.stored_blocks = prefixes.stored_blocks;
  stats.cached_host_blocks = cache.num_cached_host_blocks();
  stats.offloaded_blocks = prefixes.offloaded_blocks;
  stats.onboarded_blocks = prefixes.onboarded_blocks;
  stats.prefix_host_hit_tokens = prefixes.host_hit_tokens;
  stats.copied_to_host_bytes = prefixes.offloaded_blocks * block_bytes;
  stats.copied_from_host_bytes = prefixes.onboarded_blocks * block_bytes;
  stats.copied_on_device_bytes = prefixes.copied_tokens * (block_bytes / stats.tokens_per_block);
}

}  // namespace inflight::executor
