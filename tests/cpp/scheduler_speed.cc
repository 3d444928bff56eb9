// Microseconds of one step's scheduling and cache bookkeeping (views, schedule, reserve, commit,
// release, admission), no model. Prints one line per case; scripts/benchmark_scheduler.py makes the
// table. Fails far above the goal, or if steps allocate memory beyond growing block tables.
//
// Usage: test_scheduler_speed [steps]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <new>
#include <optional>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/scheduler/schedule.h"

namespace {

int64_t num_allocations = 0;

}  // namespace

void* operator new(size_t size) {
  ++num_allocations;
  if (void* data = std::malloc(size)) return data;
  throw std::bad_alloc();
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace inflight {
namespace {

using scheduler::SequenceView;
using Clock = std::chrono::steady_clock;

struct Case {
  const char* name;
  int32_t num_running;
  int32_t num_waiting;
  int32_t num_pool_blocks;
  int32_t min_output, max_output;  // uniform
  double goal_us;
};

constexpr int32_t kTokensPerBlock = 32;

class Random {
 public:
  int32_t between(int32_t low, int32_t high) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return low + static_cast<int32_t>((state_ >> 33) % static_cast<uint64_t>(high - low + 1));
  }

 private:
  uint64_t state_ = 7;
};

struct Sequence {
  SequenceView view;
  kv_cache::TableId table = -1;
};

/// The engine loop without an engine: as much of it as touches the scheduler and the cache.
class Loop {
 public:
  explicit Loop(const Case& which)
      : case_(which),
        limits_{which.num_running, which.num_running + 2048, true},
        cache_(kv_cache::Geometry(kTokensPerBlock), which.num_pool_blocks) {
    running_.reserve(which.num_running);
    for (int32_t i = 0; i < which.num_running + which.num_waiting; ++i) arrive();
  }

  void step() {
    running_views_.clear();
    for (Sequence& sequence : running_) {
      sequence.view.num_blocks = static_cast<int32_t>(cache_.block_table(sequence.table).size());
      running_views_.push_back(sequence.view);
    }
    waiting_views_.clear();
    const size_t num_shown =
        std::min(waiting_.size(), static_cast<size_t>(limits_.max_running()) - running_.size());
    for (size_t i = 0; i < num_shown; ++i) waiting_views_.push_back(waiting_[i]);

    const scheduler::CacheView cache{cache_.geometry(), cache_.num_blocks(),
                                     cache_.num_free_blocks()};
    scheduler::schedule(step_, scratch_, {running_views_, waiting_views_, cache}, limits_);
    for (int32_t i = 0; i < step_.num_admitted; ++i) {
      running_.push_back({waiting_.front(), cache_.open()});
      waiting_.pop_front();
    }
    growths_.clear();
    for (const scheduler::ScheduledSequence& part : step_.sequences) {
      Sequence& sequence = running_[part.index];
      sequence.view.num_computed += part.num_tokens;
      growths_.push_back({sequence.table, part.first_position, part.num_tokens});
    }
    std::optional<kv_cache::Reservation> reservation = cache_.reserve(growths_);
    if (!reservation) {
      std::fprintf(stderr, "guaranteed-no-evict ran out of blocks\n");
      std::exit(1);
    }
    reservation->commit();
    std::erase_if(running_, [this](const Sequence& sequence) {
      if (!sequence.view.is_complete()) return false;
      cache_.release(sequence.table);
      return true;
    });
  }

  void arrive() {
    const int32_t prompt_len = random_.between(16, 1024);
    const int32_t output_len = random_.between(case_.min_output, case_.max_output);
    waiting_.push_back({++last_id_, 0, prompt_len, 0, prompt_len + output_len, 0});
  }

  size_t num_waiting() const { return waiting_.size(); }
  size_t num_running() const { return running_.size(); }
  bool is_reading() const {
    return step_.num_generating < static_cast<int>(step_.sequences.size());
  }

 private:
  const Case case_;
  const scheduler::Limits limits_;
  kv_cache::KvCacheManager cache_;
  std::vector<Sequence> running_;
  std::deque<SequenceView> waiting_;
  std::vector<SequenceView> running_views_, waiting_views_;
  scheduler::Step step_;
  scheduler::Scratch scratch_;
  std::vector<kv_cache::Growth> growths_;
  Random random_;
  uint64_t last_id_ = 0;
};

bool run(const Case& which, int num_steps) {
  Loop loop(which);
  // Until all places are taken and every prompt of the first wave is read.
  for (int i = 0; i < 20000; ++i) {
    loop.step();
    if (static_cast<int32_t>(loop.num_running()) == which.num_running && !loop.is_reading()) break;
  }
  if (static_cast<int32_t>(loop.num_running()) != which.num_running && which.num_waiting == 0) {
    std::fprintf(stderr, "%s: only %zu sequences run\n", which.name, loop.num_running());
    return false;
  }
  std::vector<double> us;
  us.reserve(num_steps);
  int64_t allocations = 0;
  for (int i = 0; i < num_steps; ++i) {
    while (static_cast<int32_t>(loop.num_waiting()) < which.num_waiting) loop.arrive();
    const int64_t allocations_before = num_allocations;
    const Clock::time_point start = Clock::now();
    loop.step();
    us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    allocations += num_allocations - allocations_before;
  }
  std::sort(us.begin(), us.end());
  const double median = us[us.size() / 2];
  const double p99 = us[us.size() * 99 / 100];
  std::printf(
      "%-10s running %5d waiting %6d blocks %7d steps %d median_us %.2f p99_us %.2f "
      "goal_us %.0f allocations %lld\n",
      which.name, static_cast<int>(loop.num_running()), which.num_waiting, which.num_pool_blocks,
      num_steps, median, p99, which.goal_us, static_cast<long long>(allocations));
  if (median > 10 * which.goal_us) {
    std::fprintf(stderr, "%s: median %.2f us > 10 times the goal\n", which.name, median);
    return false;
  }
  // Block tables double now and then as they grow; beyond that a step allocates nothing.
  if (allocations > int64_t{num_steps} * which.num_running / 256) {
    std::fprintf(stderr, "%s: %lld allocations in %d steps\n", which.name,
                 static_cast<long long>(allocations), num_steps);
    return false;
  }
  return true;
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  const int num_steps = argc > 1 ? std::max(1, std::atoi(argv[1])) : 200;
  constexpr int32_t kMillion = 1'000'000;
  const inflight::Case cases[] = {
      {"generating", 256, 0, kMillion, 4096, 4096, 15},
      {"mixed", 256, 100'000, kMillion, 1, 1024, 15},
      {"generating", 4096, 0, kMillion, 4096, 4096, 200},
      {"mixed", 4096, 100'000, kMillion, 1, 1024, 200},
  };
  bool good = true;
  for (const inflight::Case& which : cases) good = inflight::run(which, num_steps) && good;
  return good ? 0 : 1;
}
