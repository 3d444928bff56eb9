// ThreadPool: every item exactly once, exceptions, more threads than cores, sleep and wake.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/core/cpu/parallel.h"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::printf("%s failed\n", what);
  std::exit(1);
}

void check_coverage(inflight::cpu::ThreadPool& pool, int64_t count, int64_t grain) {
  std::vector<int> times(count, 0);
  std::atomic<bool> in_bounds{true};
  pool.parallel_for(
      count,
      [&](int64_t begin, int64_t end, int thread) {
        if (begin < 0 || end > count || begin >= end) in_bounds = false;
        if (thread < 0 || thread >= pool.num_threads()) in_bounds = false;
        if (end - begin < grain && end != count) in_bounds = false;
        for (int64_t i = begin; i < end; ++i) ++times[i];
      },
      grain);
  require(in_bounds, "ranges");
  for (int time : times) require(time == 1, "each item once");
}

}  // namespace

int main() {
  using inflight::cpu::ThreadPool;
  for (int num_threads : {1, 2, 3, 16}) {
    ThreadPool pool(num_threads);
    require(pool.num_threads() == num_threads, "num_threads");
    for (int round = 0; round < 300; ++round) {
      for (int64_t count : {0, 1, 2, 7, 100, 1000}) check_coverage(pool, count, 1 + round % 9);
    }
    // Asleep, then woken.
    for (int round = 0; round < 5; ++round) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      check_coverage(pool, 50, 1);
    }
    // An exception comes out once all is done, and the pool goes on working.
    bool caught = false;
    try {
      pool.parallel_for(64, [](int64_t begin, int64_t, int) {
        if (begin >= 32 || begin == 0) throw std::runtime_error("expected");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    require(caught, "exception");
    check_coverage(pool, 100, 1);
  }
  // One range's worth of work stays with the caller.
  ThreadPool pool(4);
  const auto caller = std::this_thread::get_id();
  pool.parallel_for(
      10, [&](int64_t, int64_t, int) { require(std::this_thread::get_id() == caller, "grain"); },
      10);
  require(ThreadPool().num_threads() == inflight::cpu::num_available_cores(), "default");
}
