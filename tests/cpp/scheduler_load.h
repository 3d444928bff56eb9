// What scheduler_speed measures: the engine's loop without an engine, as much of it as touches the
// scheduler and the cache; and a cache full of earlier prompts.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory_resource>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/planning/planner.h"
#include "kernels/core/large_pages.h"

namespace inflight::testing {

constexpr int32_t kTokensPerBlock = 32;
constexpr int32_t kVocabSize = 128256;
constexpr int32_t kLongPrompt = 100'000;  // tokens

/// Of this thread, so that other work on the machine counts for less.
inline double cpu_microseconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

class Random {
 public:
  explicit Random(uint64_t seed = 7) : state_(seed) {}
  int32_t between(int32_t low, int32_t high) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return low + static_cast<int32_t>((state_ >> 33) % static_cast<uint64_t>(high - low + 1));
  }

 private:
  uint64_t state_;
};

/// The n-th of the prompts that fill a cache.
inline void long_prompt(int32_t n, std::vector<int32_t>& out) {
  Random random(1000 + static_cast<uint64_t>(n));
  out.resize(kLongPrompt);
  for (int32_t& id : out) id = random.between(0, kVocabSize - 1);
}

/// Runs prompts of 100,000 tokens until the pool holds nothing else, sixteen of them side by side,
/// a block of each at a time, so that a prompt's blocks lie scattered. Returns how many prompts.
inline int32_t fill(kv_cache::KvCacheManager& cache) {
  const int32_t total = cache.num_blocks() / (kLongPrompt / kTokensPerBlock);
  std::vector<std::vector<int32_t>> prompts(16);
  for (int32_t begin = 0; begin < total; begin += 16) {
    const int32_t count = std::min(total - begin, 16);
    std::vector<kv_cache::TableId> tables;
    std::vector<kv_cache::TokenView> views;
    for (int32_t n = 0; n < count; ++n) {
      long_prompt(begin + n, prompts[n]);
      views.push_back({prompts[n], {}});
      tables.push_back(cache.open({.tokens = views.back()}));
    }
    std::vector<kv_cache::Growth> growths(count);
    for (int32_t first = 0; first < kLongPrompt; first += kTokensPerBlock) {
      for (int32_t n = 0; n < count; ++n) growths[n] = {tables[n], first, kTokensPerBlock};
      cache.reserve(growths)->commit([&](int32_t i) { return views[i]; });
    }
    for (int32_t n = 0; n < count; ++n) cache.release(tables[n], views[n]);
  }
  return total;
}

struct Case {
  const char* name;
  int32_t num_running;
  int32_t num_waiting;
  int32_t num_pool_blocks;
  int32_t min_output, max_output;  // uniform
  double goal_us;
  bool reuses;  // and begins with a full cache
};

/// The engine's loop without an engine: plan, commit, end, release.
class Loop {
 public:
  explicit Loop(const Case& which)
      : case_(which),
        limits_{.max_batch_size = which.num_running, .max_num_tokens = which.num_running + 2048},
        cache_(kv_cache::Geometry(kTokensPerBlock), which.num_pool_blocks,
               {.enable_reuse = which.reuses, .vocab_size = kVocabSize}),
        planner_(limits_, cache_),
        ids_(1 << 24) {
    Random random;
    for (int32_t& id : ids_) id = random.between(0, kVocabSize - 1);
    if (which.reuses) {
      fill(cache_);
      known_.resize(which.num_pool_blocks / (kLongPrompt / kTokensPerBlock));
      for (size_t n = 0; n < known_.size(); ++n) {
        long_prompt(static_cast<int32_t>(n), known_[n]);
        known_[n].resize(kLongestPrompt);
        known_[n].shrink_to_fit();
      }
    }
    for (int32_t i = 0; i < which.num_running; ++i) arrive();
    prepare();
  }

  void step() {
    if (!planner_.plan(planned_, false)) {
      std::fprintf(stderr, "nothing to run\n");
      std::exit(1);
    }
    num_started_ += static_cast<int64_t>(planned_.started.size());
    cache_.clear_copies();
    planner_.commit(planned_);
    for (size_t i = 0; i < planned_.sequences.size(); ++i) {
      planning::PlannedSequence& sequence = *planned_.sequences[i];
      if (!planned_.step.sequences[i].makes_token()) continue;
      sequence.append(static_cast<int32_t>(sequence.id() + sequence.generated().size()) & 0xffff);
      if (static_cast<int32_t>(sequence.generated().size()) == sequence.max_new_tokens())
        planner_.end(sequence);
    }
    gone_.clear();
    planner_.release(gone_);
    for (const planning::PlannedSequence* sequence : gone_) live_.erase(sequence->id());
  }

  /// Between steps, not timed: keeps the queue at its length.
  void prepare() {
    while (static_cast<int32_t>(planner_.num_waiting()) < case_.num_waiting) arrive();
  }

  int64_t num_started() const { return num_started_; }  // requests, so far
  size_t num_running() const { return planner_.running().size(); }
  const kv_cache::KvCacheManager& cache() const { return cache_; }
  bool is_reading() const { return planned_.work.num_prompt_tokens > 0; }

 private:
  static constexpr int32_t kLongestPrompt = 1024;

  /// Of those that reuse, half begin as one of those that fill the cache does.
  void arrive() {
    const uint64_t id = ++last_id_;
    const int32_t prompt_len = random_.between(16, kLongestPrompt);
    std::span<const int32_t> prompt;
    if (id % 2 == 1 && !known_.empty()) {
      prompt = std::span(known_[random_.between(0, static_cast<int32_t>(known_.size()) - 1)]);
    } else {
      const auto most = static_cast<int32_t>(ids_.size()) - kLongestPrompt;
      prompt = std::span(ids_).subspan(random_.between(0, most));
    }
    const planning::SequenceFacts facts{
        .id = id,
        .prompt_ids = prompt.first(prompt_len),
        .max_new_tokens = random_.between(case_.min_output, case_.max_output)};
    planner_.arrive(live_.try_emplace(id, facts, &memory_).first->second, {});
  }

  const Case case_;
  const scheduler::Limits limits_;
  kv_cache::KvCacheManager cache_;
  planning::Planner planner_;
  planning::PlannedStep planned_;
  std::vector<int32_t> ids_;                 // prompts begin anywhere in it
  std::vector<std::vector<int32_t>> known_;  // starts of the prompts that fill the cache
  LargePages pages_;
  std::pmr::unsynchronized_pool_resource memory_{LargePages::kPool, &pages_};
  std::pmr::unordered_map<uint64_t, planning::PlannedSequence> live_{&memory_};
  std::vector<planning::PlannedSequence*> gone_;
  Random random_;
  uint64_t last_id_ = 0;
  int64_t num_started_ = 0;
};

}  // namespace inflight::testing
