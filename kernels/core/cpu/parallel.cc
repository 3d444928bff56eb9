#include "kernels/core/cpu/parallel.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::cpu {
namespace {

// Long enough to bridge the gap between two ops of a step, short enough not to show in an idle
// server's load.
constexpr std::chrono::microseconds kSpinTime{40};
constexpr int kRangesPerThread = 8;
constexpr uint32_t kStop = ~0u;  // in ranges_left_: the threads shall end

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns when `value` is no longer `old`: spins for a while, then sleeps.
void wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

int num_available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads == 0) num_threads = num_available_cores();
  check(num_threads >= 1 && num_threads <= 4096, "num_threads must be in [0, 4096], got ",
        num_threads);
  workers_.reserve(num_threads - 1);
  try {
    for (int thread = 1; thread < num_threads; ++thread)
      workers_.emplace_back([this, thread] { work(thread); });
  } catch (const std::system_error& error) {
    const size_t num_started = workers_.size();
    stop();
    throw Error(ErrorCode::kResourceExhausted,
                concat("could start only ", num_started, " of ", num_threads - 1,
                       " threads for CPU ops: ", error.what()));
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  ranges_left_.store(kStop, std::memory_order_release);
  ranges_left_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

int64_t ThreadPool::range_size(int64_t count, int64_t grain) const {
  if (workers_.empty()) return count;
  const int64_t max_ranges = static_cast<int64_t>(num_threads()) * kRangesPerThread;
  return std::max({int64_t{1}, grain, (count + max_ranges - 1) / max_ranges});
}

void ThreadPool::run(const Job& job) {
  check_internal(unfinished_.load(std::memory_order_relaxed) == 0,
                 "parallel_for is not re-entrant");
  job_ = job;
  num_ranges_ = static_cast<uint32_t>((job.count + job.range - 1) / job.range);
  unfinished_.store(num_ranges_, std::memory_order_relaxed);
  ranges_left_.store(num_ranges_, std::memory_order_release);
  if (num_ranges_ - 1 >= workers_.size()) {
    ranges_left_.notify_all();
  } else {
    for (uint32_t i = 1; i < num_ranges_; ++i) ranges_left_.notify_one();
  }
  take_ranges(0);
  for (uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;)
    wait_while_equal(unfinished_, left);
  if (exception_) [[unlikely]]
    std::rethrow_exception(std::exchange(exception_, nullptr));
}

void ThreadPool::work(int thread) {
  while (ranges_left_.load(std::memory_order_acquire) != kStop) {
    take_ranges(thread);
    wait_while_equal(ranges_left_, 0);
  }
}

void ThreadPool::take_ranges(int thread) {
  uint32_t left = ranges_left_.load(std::memory_order_acquire);
  while (left != 0 && left != kStop) {
    if (!ranges_left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) continue;
    // job_ cannot change before this range is counted as finished.
    const int64_t begin = (num_ranges_ - left) * job_.range;
    try {
      job_.call(job_.target, begin, std::min(begin + job_.range, job_.count), thread);
    } catch (...) {
      std::lock_guard lock(exception_mutex_);
      if (!exception_) exception_ = std::current_exception();
    }
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
    left = ranges_left_.load(std::memory_order_acquire);
  }
}

}  // namespace inflight::cpu
