// Pieces of the narrow product (narrow.cu): how its work is described, its tensor core products,
// its copies and counters.
//
// Why thread blocks of a grid of several links may wait for each other though nothing launches them
// at once (a cooperative launch would; a 1B's steps took 6 % longer by it). There is one to a
// multiprocessor at most and each finds room on an empty one, so all of them run once no other
// kernel keeps its place for good. (1) Kernels ahead of it in its stream: it starts when all blocks
// of the one ahead have called let_next_start() or ended (launch.cuh), all of them were running by
// then, and by induction so were all before: what they hold they give back without any block that
// has not started. (2) Kernels behind it: the first of them starts when all its own blocks have
// called let_next_start(), so when they run. (3) Kernels of other streams and libraries end by
// themselves, since they wait for nothing that has not started; but two grids of this kind could
// keep each other out. So it is launched only where OpContext::grids_may_wait, which one engine of
// a GPU has at a time (backend/executor/grid_lease.h). Processes take turns on a GPU as a whole,
// but under MPS, where none has it. (4) Whatever else there may be: a wait of kPatience ends as an
// error.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/gemm/select.h"
#include "kernels/gemm/store.cuh"

namespace inflight::cuda {

/// Copies the box of a map made by tensor_map_of_chunks from (row, chunk) on.
__device__ __forceinline__ void copy_chunks(void* to, const CUtensorMap& map, int row, int chunk,
                                            uint64_t* barrier, uint64_t policy) {
  copy_box(shared_address(to), map, 0, row, chunk, shared_address(barrier), policy);
}

}  // namespace inflight::cuda

namespace inflight::cuda::narrow {

using cuda::copy_async, cuda::commit_copies, cuda::wait_copies;

inline constexpr int kAtom = 8 * 128;  // bytes of 8 weight rows x 64 elements: the swizzle's unit
inline constexpr int kWarps = 8;       // consumers; then the producer and the watcher
inline constexpr int kConsumers = kWarps * 32;
inline constexpr int kThreads = kConsumers + 2 * 32;
inline constexpr int kRows = kMaxNarrowRows;
inline constexpr int kMaxSlots = 48 / kWarps;  // of a warp's ring
inline constexpr int kSlotBytes = 4096;
inline constexpr int kXAhead = 4;  // slots' worth of x on their way where not all of it is kept
inline constexpr int kGroupColumns = 8;  // columns of y in an atom
inline constexpr int kPad = 4;  // floats after a row of sums: a warp's stores meet no bank twice
inline constexpr int kPartColumns = 4 * kGroupColumns + kPad;

/// Nanoseconds for which a block waits for others. Their sums take microseconds, and other kernels
/// that they wait for to end milliseconds.
inline constexpr uint64_t kPatience = 5'000'000'000;

/// 64-element chunks of the depth in a slot.
inline constexpr int chunks_of(int groups) { return groups == 2 ? 2 : 1; }

struct Link {
  ProductOutput out;
  const void* x;            // [rows, depth]
  const void* norm_weight;  // [depth] or null; then x is kept
  float epsilon;
  int depth;
  int steps;   // slots that each warp needs for a tile
  int groups;  // of 8 weight rows, in a tile
  int width;   // columns of y in a tile
  int tiles;
  bool keeps_x;  // a warp's share of it, read once
};

struct Args {
  CUtensorMap weights[kMaxNarrowLinks];  // in boxes of width rows and chunks_of(groups) chunks
  Link links[kMaxNarrowLinks];
  int num_links;
  int slots;           // of a warp's ring
  uint32_t zero;       // as Ring has it
  int window;          // copies on their way, of all warps
  int x_bytes;         // of a warp
  int g_bytes;         // of a warp
  uint32_t* counters;  // kMaxNarrowLinks zeros
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// sums (lane (row, quarter) has columns 2 quarter and 2 quarter + 1 of row) += 8 rows of x times
/// 8 of the weights over a depth of 16.
template <typename T>
__device__ __forceinline__ void add_products(float (&sums)[4], uint32_t a0, uint32_t a2,
                                             uint32_t b0, uint32_t b1) {
  // Rows 8 to 15 of the tensor core's tile are zeros.
#define INFLIGHT_MMA(type)                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
               : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<T, __half>) {
    INFLIGHT_MMA("f16");
  } else {
    INFLIGHT_MMA("bf16");
  }
#undef INFLIGHT_MMA
}

__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}
__device__ __forceinline__ void store_shared(uint32_t address, const uint4& value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

__device__ __forceinline__ uint64_t now_in_ns() {
  uint64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

/// Polls; if it takes kPatience the kernel ends as a failure, which the engine reports.
__device__ __forceinline__ void wait_until(const uint32_t* counter, uint32_t count) {
  const auto has_come = [&] {
    uint32_t seen;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    return seen >= count;
  };
  constexpr int kPollsAtOnce = 1024;  // 0.3 us each
  for (uint64_t end = 0;;) {
    for (int i = 0; i < kPollsAtOnce; ++i) {
      if (has_come()) return;
    }
    const uint64_t now = now_in_ns();
    if (end == 0) end = now + kPatience;
    if (now >= end) asm volatile("trap;");
  }
}

/// The two bytes at `from` as the L2 has them, in the lower half: an own store before is there when
/// they come.
__device__ __forceinline__ uint32_t load_back(const void* from) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
/// Tells those who poll the counter that what was stored before, and loaded back, is there. (A
/// release would wait for whatever this multiprocessor has on its way: 1.3 us behind a full
/// memory.)
__device__ __forceinline__ void raise(uint32_t* counter) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

/// Tells those who `meet<kId>(threads)` that this warp was there, without waiting for them.
template <int kId>
__device__ __forceinline__ void pass(int threads) {
  arrive_named(kId, threads);
}

/// A barrier of the first `threads` threads' whole warps; kId is not 0, which is __syncthreads.
template <int kId>
__device__ __forceinline__ void meet(int threads) {
  sync_named(kId, threads);
}

struct Shared {
  uint64_t full[kWarps][kMaxSlots];
  uint64_t empty[kWarps][kMaxSlots];
  uint64_t ready[kMaxNarrowLinks];  // x is there
  Link links[kMaxNarrowLinks];      // parameters are slow to read for the first time
  float squares[kMaxNarrowLinks][kWarps][kRows];
};

#endif

}  // namespace inflight::cuda::narrow
