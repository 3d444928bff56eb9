// What the scheduler and the cache books cost the host, no model: a step (views, schedule, match,
// open, reserve, commit, release) beside an empty cache and beside one full of earlier prompts; the
// match of a prompt of 100,000 tokens; bytes of a block. Prints one line a figure;
// scripts/benchmark_scheduler.py makes the table. Fails far above the goals, or if steps allocate
// memory beyond what growing sequences take.
//
// Usage: test_scheduler_speed [steps] [blocks of the pool] [number of a case, the last the cache
// alone]; fewer than a million blocks leave some out. Without a number all one after another, the
// later ones in memory that the earlier have left in pieces.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <vector>

#include "scheduler_load.h"

namespace {

int64_t num_allocations = 0;

}  // namespace

void* operator new(size_t size) {
  ++num_allocations;
  if (void* data = std::malloc(size)) return data;
  throw std::bad_alloc();
}
// Its own calls malloc, not the replaced operator, where a sanitizer stands in.
void* operator new(size_t size, const std::nothrow_t&) noexcept { return std::malloc(size); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace inflight::testing {
namespace {

struct Figures {
  double least, median, p99;
};

Figures figures_of(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return {values.front(), values[values.size() / 2], values[values.size() * 99 / 100]};
}

/// What two looks at the clock cost by themselves.
double clock_microseconds() {
  double least = 1e9;
  for (int i = 0; i < 1000; ++i) {
    const double start = cpu_microseconds();
    least = std::min(least, cpu_microseconds() - start);
  }
  return least;
}

bool is_near(const char* what, double value, double goal) {
  if (value <= 10 * goal) return true;
  std::fprintf(stderr, "%s: %.2f > 10 times the goal %.0f\n", what, value, goal);
  return false;
}

bool measure_steps(const Case& which, int num_steps) {
  Loop loop(which);
  // Until all places are taken and every prompt of the first wave is read.
  for (int i = 0; i < 20000; ++i) {
    loop.step();
    loop.prepare();
    if (static_cast<int32_t>(loop.num_running()) == which.num_running && !loop.is_reading()) break;
  }
  if (static_cast<int32_t>(loop.num_running()) != which.num_running && which.num_waiting == 0) {
    std::fprintf(stderr, "%s: only %zu sequences run\n", which.name, loop.num_running());
    return false;
  }
  const double clock = clock_microseconds();
  const kv_cache::PrefixStatistics before = loop.cache().prefix_statistics();
  std::vector<double> us;
  us.reserve(num_steps);
  int64_t allocations = 0;
  const int64_t started_before = loop.num_started();
  for (int i = 0; i < num_steps; ++i) {
    loop.prepare();
    const int64_t allocations_before = num_allocations;
    const double start = cpu_microseconds();
    loop.step();
    us.push_back(cpu_microseconds() - start - clock);
    allocations += num_allocations - allocations_before;
  }
  const Figures figures = figures_of(us);
  const kv_cache::PrefixStatistics after = loop.cache().prefix_statistics();
  const auto a_step = [num_steps](int64_t count) { return static_cast<double>(count) / num_steps; };
  std::printf(
      "%s running %d waiting %d blocks %d cached %d least %.2f median %.2f p99 %.2f goal %.0f "
      "unit us stored %.2f evicted %.2f found %.2f allocations %.3f\n",
      which.name, static_cast<int>(loop.num_running()), which.num_waiting, which.num_pool_blocks,
      loop.cache().num_cached_blocks(), figures.least, figures.median, figures.p99, which.goal_us,
      a_step(after.stored_blocks - before.stored_blocks),
      a_step(after.evicted_blocks - before.evicted_blocks),
      a_step(after.hit_blocks - before.hit_blocks), a_step(allocations));
  // A sequence's tokens and table double now and then as they grow; beyond that and what a request
  // takes when it starts a step allocates nothing.
  const int64_t num_started = loop.num_started() - started_before;
  if (allocations > (num_steps / 128 + 8) * int64_t{which.num_running} + 32 * num_started) {
    std::fprintf(stderr, "%s: %lld allocations in %d steps\n", which.name,
                 static_cast<long long>(allocations), num_steps);
    return false;
  }
  return is_near(which.name, figures.median, which.goal_us);
}

double resident_bytes() {
  malloc_trim(0);
  long pages = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%*d %ld", &pages) != 1) return 0;
  std::fclose(file);
  return static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// Bytes of host memory that a pool of cached blocks takes, by what the process takes; and the
/// match of a whole prompt of 100,000 tokens, each of another one, so that nothing of it is in the
/// processor's caches.
bool measure_cache(int32_t num_blocks) {
  std::vector<int32_t> prompt;
  long_prompt(0, prompt);
  const double before = resident_bytes();
  kv_cache::KvCacheManager cache(kv_cache::Geometry(kTokensPerBlock), num_blocks,
                                 {.enable_reuse = true, .vocab_size = kVocabSize});
  const int32_t num_prompts = fill(cache);
  const double bytes = (resident_bytes() - before) / num_blocks;
  std::printf("memory running 0 waiting 0 blocks %d cached %d median %.1f goal 128 unit bytes\n",
              num_blocks, cache.num_cached_blocks(), bytes);

  const double clock = clock_microseconds();
  std::vector<double> us;
  for (int32_t n = 0; n < num_prompts; ++n) {
    long_prompt(n, prompt);
    const double start = cpu_microseconds();
    const kv_cache::PrefixMatch match = cache.match({prompt, {}});
    us.push_back(cpu_microseconds() - start - clock);
    if (match.num_tokens != kLongPrompt - 1) {
      std::fprintf(stderr, "match: %d of %d tokens\n", match.num_tokens, kLongPrompt);
      return false;
    }
  }
  const Figures figures = figures_of(us);
  std::printf(
      "match running 0 waiting 0 blocks %d cached %d least %.2f median %.2f p99 %.2f goal 500 "
      "unit us\n",
      num_blocks, cache.num_cached_blocks(), figures.least, figures.median, figures.p99);
  return is_near("memory", bytes, 128) && is_near("match", figures.median, 500);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  const int num_steps = argc > 1 ? std::max(1, std::atoi(argv[1])) : 200;
  const int32_t num_blocks = argc > 2 ? std::atoi(argv[2]) : 100'000;
  constexpr int32_t kMillion = 1'000'000;  // 4,096 need so many, which takes long to fill
  const Case cases[] = {
      {"generating", 256, 0, num_blocks, 4096, 4096, 15, false},
      {"mixed", 256, 100'000, num_blocks, 1, 1024, 15, false},
      {"generating", 4096, 0, kMillion, 4096, 4096, 200, false},
      {"mixed", 4096, 100'000, kMillion, 1, 1024, 200, false},
      {"generating", 256, 0, num_blocks, 4096, 4096, 15, true},
      {"mixed", 256, 100'000, num_blocks, 1, 1024, 15, true},
      {"generating", 4096, 0, kMillion, 4096, 4096, 200, true},
      {"mixed", 4096, 100'000, kMillion, 1, 1024, 200, true},
  };
  bool good = true;
  const int wanted = argc > 3 ? std::atoi(argv[3]) : -1;
  int number = 0;
  for (const Case& which : cases) {
    if (wanted >= 0 && wanted != number++) continue;
    if (which.reuses && which.num_pool_blocks > num_blocks) continue;
    good = measure_steps(which, num_steps) && good;
  }
  if (wanted < 0 || wanted >= number) good = measure_cache(num_blocks) && good;
  return good ? 0 : 1;
}
