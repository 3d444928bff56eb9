// A bound for threads that wait for other thread blocks.
#pragma once

#include <cstdint>

namespace inflight::cuda {

/// Ends the kernel as a failure, which the engine reports, if others take too long: what they do
/// takes microseconds, and other kernels that they wait for to end milliseconds.
class Patience {
 public:
  static constexpr uint64_t kNanoseconds = 5'000'000'000;

  __device__ __forceinline__ void tick() {
    if (++polls_ % 1024 != 0) return;  // 0.5 us each
    uint64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    if (end_ == 0) end_ = now + kNanoseconds;
    if (now >= end_) asm volatile("trap;");
  }

 private:
  uint32_t polls_ = 0;
  uint64_t end_ = 0;
};

}  // namespace inflight::cuda
