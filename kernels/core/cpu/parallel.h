// The threads on which CPU ops run: persistent, started once per rank, idle without using a core.
// One thread at a time may call parallel_for (the engine thread or the rank's worker); it takes
// part in the work. Knows nothing of ops.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace inflight::cpu {

/// Cores that this process may run on (its affinity mask).
int num_available_cores();

/// Items to a range of parallel_for so that a range touches at least about 32 KB: less is not worth
/// another thread. `item_bytes` is what one item reads and writes.
constexpr int64_t grain_for(int64_t item_bytes) {
  return item_bytes >= 32768 ? 1 : 32768 / (item_bytes > 0 ? item_bytes : 1);
}

class ThreadPool {
 public:
  /// Starts num_threads - 1 threads (the caller of parallel_for is the other one). 0 means one
  /// thread per available core.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls function(begin, end, thread) for disjoint ranges that cover [0, count), each of at least
  /// `grain` items (the last may be shorter), with 0 <= thread < num_threads(). Ranges are handed
  /// out as threads come free, several to a thread, so uneven items balance. One range's worth of
  /// work or less stays on the caller and wakes nobody. Returns when all is done; the first
  /// exception is raised again here. Not re-entrant.
  template <typename Function>
  void parallel_for(int64_t count, const Function& function, int64_t grain = 1) {
    if (count <= 0) return;
    const int64_t range = range_size(count, grain);
    if (range >= count) {
      function(int64_t{0}, count, 0);
      return;
    }
    run({[](const void* target, int64_t begin, int64_t end, int thread) {
           (*static_cast<const Function*>(target))(begin, end, thread);
         },
         &function, count, range});
  }

 private:
  struct Job {
    void (*call)(const void* target, int64_t begin, int64_t end, int thread) = nullptr;
    const void* target = nullptr;
    int64_t count = 0;
    int64_t range = 0;  // items in a range
  };

  int64_t range_size(int64_t count, int64_t grain) const;
  void run(const Job& job);
  void work(int thread);
  /// Ends and joins the threads.
  void stop();
  /// Takes ranges of the current job until none is left.
  void take_ranges(int thread);

  Job job_;                               // written by run() while no range is left
  uint32_t num_ranges_ = 0;               // of job_
  std::atomic<uint32_t> ranges_left_{0};  // not yet taken; a thread that takes one may read job_
  std::atomic<uint32_t> unfinished_{0};   // ranges not yet done
  std::mutex exception_mutex_;
  std::exception_ptr exception_;
  std::vector<std::thread> workers_;
};

}  // namespace inflight::cpu
