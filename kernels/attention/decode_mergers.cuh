// Parts of items told to thread blocks that do nothing but merge them.
//
// Where a few long items are divided among all thread blocks, a launch ends with what lies between
// the last tile and the merged item: parts stored, counted, found to be all and loaded are four
// ways to the L2 one after another, each of them behind whatever tiles the next launch's blocks
// ask for. A part that is told takes one: it is stored in the place of words that no part has,
// which its merger put there while tiles were read, and polls. (The idea is NCCL's "LL" protocol,
// without its tags: the workspace keeps nothing from launch to launch.)
//
// Mergers have the last numbers of the grid: thread blocks are placed in order, so the next
// launch's mergers find themselves where this one's, its last ones to end, were, and no block that
// has tiles starts late. A merger waits for blocks, and they, once, for its words: for grids that
// may (OpContext::grids_may_wait; kernels/gemm/narrow.cuh says why that is safe).
#pragma once

#include "kernels/attention/decode.cuh"
#include "kernels/core/cuda/patience.cuh"

namespace inflight::cuda::decode {

inline constexpr uint32_t kNotTold = ~0u;  // of no number: results that are none have other bits

__device__ __forceinline__ uint32_t word_of(float value) {
  const uint32_t word = __float_as_uint(value);
  return word == kNotTold ? 0x7fffffffu : word;
}
__device__ __forceinline__ void tell(float* to, const float4& values) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to),
               "r"(word_of(values.x)), "r"(word_of(values.y)), "r"(word_of(values.z)),
               "r"(word_of(values.w))
               : "memory");
}
__device__ __forceinline__ void tell(float2* to, const float2& values) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(word_of(values.x)),
               "r"(word_of(values.y))
               : "memory");
}
__device__ __forceinline__ void hear(const float* from, float4& values) {
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w)
               : "l"(from)
               : "memory");
}
__device__ __forceinline__ void hear(const float2* from, float2& values) {
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
               : "=f"(values.x), "=f"(values.y)
               : "l"(from)
               : "memory");
}
__device__ __forceinline__ bool is_told(float value) { return __float_as_uint(value) != kNotTold; }
__device__ __forceinline__ bool is_told(const float2& values) {
  return is_told(values.x) && is_told(values.y);
}
__device__ __forceinline__ bool is_told(const float4& values) {
  return is_told(values.x) && is_told(values.y) && is_told(values.z) && is_told(values.w);
}

/// By one thread: until another one has set it; what that one's block stored before is there.
__device__ __forceinline__ void wait_until_set(const uint32_t* flag) {
  Patience patience;
  for (;;) {
    uint32_t seen;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    if (seen != 0) return;
    patience.tick();
  }
}
__device__ __forceinline__ void set(uint32_t* flag) {
  asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}

template <typename T, int kHeadSize, int kHeadBlocks, int kWarps, bool kWindow, bool kAppends>
__device__ __forceinline__ void
DecodeKernel<T, kHeadSize, kHeadBlocks, kWarps, kWindow, kAppends>::merge_as_they_come() const {
  wait_for_previous();
  const int num_parts = work.num_parts, heads = args.heads_per_group;
  if (num_parts == 1) return;
  const auto index_of = [&](int part) {
    return (2 * (work.first_block + part) + (part == 0 ? 1 : 0)) * heads;
  };
  const float nothing = __uint_as_float(kNotTold);
  const auto num_quads = static_cast<int>(args.quads_per_group.divisor);
  for (int i = threadIdx.x; i < num_parts * num_quads; i += kThreads) {
    const int part = args.quads_per_group.quotient(i), quad = i - part * num_quads;
    reinterpret_cast<float4*>(args.partial_outputs + int64_t{index_of(part)} * kHeadSize)[quad] = {
        nothing, nothing, nothing, nothing};
    if (quad < heads) args.partial_states[index_of(part) + quad] = {nothing, nothing};
  }
  __syncthreads();
  uint32_t* flag = args.counters + work.first_block;
  if (threadIdx.x == 0) set(flag);

  merge_parts(work.item, num_parts, [&](int share, int num_shares, int head, int d, float2& state) {
    const int count = (num_parts - share + num_shares - 1) / num_shares;
    Patience patience;
    const auto load = [&](int begin, float2* states, float4* outputs) {
      const auto place_of_part = [&](int i) {
        return index_of(share + (begin + i) * num_shares) + head;
      };
      // Polls for one part alone as long as none needs to be there.
      for (;;) {
        hear(args.partial_states + place_of_part(0), states[0]);
        if (is_told(states[0])) break;
        __nanosleep(100);
        patience.tick();
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const bool is_there = begin + i < count;
        states[i] = is_there ? make_float2(nothing, nothing) : make_float2(-INFINITY, 0);
        outputs[i] = is_there ? make_float4(nothing, nothing, nothing, nothing) : float4{};
      }
      for (bool is_all = false; !is_all; patience.tick()) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (!is_told(states[i])) hear(args.partial_states + place_of_part(i), states[i]);
          if (!is_told(outputs[i]))
            hear(args.partial_outputs + int64_t{place_of_part(i)} * kHeadSize + d, outputs[i]);
        }
        is_all = true;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) is_all &= is_told(states[i]) && is_told(outputs[i]);
      }
    };
    return merge(count, load, state);
  });
  if (threadIdx.x == 0) *flag = 0;  // its parts have come: all blocks have seen it
}

}  // namespace inflight::cuda::decode
