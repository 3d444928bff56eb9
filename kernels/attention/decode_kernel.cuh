// The decode kernel: each thread block finds its part of the step, its warps read it, and what they
// have of items that no warp had whole is merged.
#pragma once

#include "kernels/attention/decode.cuh"
#include "kernels/attention/decode_mergers.cuh"

namespace inflight::cuda::decode {

template <typename T, int kHeadSize, int kHeadBlocks, int kWarps, bool kWindow, bool kAppends>
__device__ __forceinline__ void
DecodeKernel<T, kHeadSize, kHeadBlocks, kWarps, kWindow, kAppends>::merge_warps() const {
  const int heads = args.heads_per_group;
  const int num_quads = static_cast<int>(args.quads_per_group.divisor);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t there =
      __ballot_sync(kFullWarp, lane <= kWarps && parted[min(lane, kWarps)].num_parts > 0);
  const int num_there = __popc(there);
  for (int i = threadIdx.x; i < num_there * num_quads; i += kThreads) {
    const int nth = args.quads_per_group.quotient(i), quad = i - nth * num_quads;
    const int head = quad / kQuads, d = quad % kQuads * 4;
    uint32_t rest = there;
    for (int j = 0; j < nth; ++j) rest &= rest - 1;
    const int index = __ffs(static_cast<int>(rest)) - 1;
    const Parted& at = parted[index];
    if (head >= at.num_heads) continue;
    const int num_others = at.num_parts - 1;
    const int first = (index == 0 ? 0 : kWarps + index - 1) * heads + head;
    const int others = (max(index, 1)) * heads + head;
    float2 state = part_states[first];
    const float* part = index == 0 ? part_outputs : begun_outputs + (index - 1) * begun_pitch;
    float4 output = *reinterpret_cast<const float4*>(part + head * kPartPitch + d);
    if (num_others > 0) {
      const float2* states = part_states + others;
      float maximum = state.x;
#pragma unroll 4
      for (int j = 0; j < num_others; ++j) maximum = fmaxf(maximum, states[j * heads].x);
      scale(state, output, exp2_fast(state.x - maximum));
      state.x = maximum;
      const float* outputs = part_outputs + others * kPartPitch + d;
#pragma unroll 4
      for (int j = 0; j < num_others; ++j) {
        add(state, output, states[j * heads],
            *reinterpret_cast<const float4*>(outputs + j * heads * kPartPitch));
      }
    }
    if (at.item.begin >= work.begin && at.item.end <= work.end) {
      write(static_cast<T*>(args.y) + at.offset + head * kHeadSize + d, output, state.y);
    } else {
      const int to = (2 * static_cast<int>(blockIdx.x) + (index == 0 ? 0 : 1)) * heads + head;
      float* outputs = args.partial_outputs + int64_t{to} * kHeadSize + d;
      if (work.num_mergers > 0) {
        tell(outputs, output);
        if (d == 0) tell(args.partial_states + to, state);
      } else {
        *reinterpret_cast<float4*>(outputs) = output;
        if (d == 0) args.partial_states[to] = state;
      }
    }
  }
}

template <typename T, int kHeadSize, int kHeadBlocks, int kWarps, bool kWindow, bool kAppends>
__device__ __forceinline__ void
DecodeKernel<T, kHeadSize, kHeadBlocks, kWarps, kWindow, kAppends>::merge_blocks() const {
  __shared__ int is_last[2];
  // One item at most began before this block. One at most goes on after it.
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Parted& seen = parted[min(lane, kWarps)];
  const uint32_t going_on = __ballot_sync(
      kFullWarp, lane > 0 && lane <= kWarps && seen.num_parts > 0 && seen.item.end > work.end);
  const bool has[2] = {parted[0].num_parts > 0, going_on != 0};
  if (!has[0] && !has[1]) return;
  const int index_of_last = __ffs(static_cast<int>(going_on)) - 1;
  __syncthreads();
  if (threadIdx.x % 32 == 0 && threadIdx.x / 32 < 2) {
    const int which = threadIdx.x / 32;
    is_last[which] = 0;
    if (has[which]) {
      const int2 blocks = work.blocks_of(parted[which == 0 ? 0 : index_of_last].item);
      uint32_t* counter = args.counters + blocks.x;
      is_last[which] = count_in_order(counter) == static_cast<uint32_t>(blocks.y);
      if (is_last[which]) *counter = 0;
    }
  }
  __syncthreads();
  for (int which = 0; which < 2; ++which) {
    if (is_last[which]) merge_item(parted[which == 0 ? 0 : index_of_last].item);
  }
}

template <typename T, int kHeadSize, int kHeadBlocks, int kWarps, bool kWindow, bool kAppends>
__device__ __forceinline__ void DecodeKernel<T, kHeadSize, kHeadBlocks, kWarps, kWindow,
                                             kAppends>::merge_item(const Item& item) const {
  const int2 blocks = work.blocks_of(item);
  merge_parts(item, blocks.y, [&](int share, int num_shares, int head, int d, float2& state) {
    const auto index_of = [&](int j) {
      const int part = share + j * num_shares;
      return (2 * (blocks.x + part) + (part == 0 ? 1 : 0)) * args.heads_per_group + head;
    };
    return merge((blocks.y - share + num_shares - 1) / num_shares,
                 [&](int j) { return __ldcg(args.partial_states + index_of(j)); },
                 [&](int j) {
                   return __ldcg(reinterpret_cast<const float4*>(
                       args.partial_outputs + int64_t{index_of(j)} * kHeadSize + d));
                 },
                 state);
  });
}

template <typename T, int kHeadSize, int kHeadBlocks, int kWarps, bool kWindow, bool kAppends>
template <typename Merge>
__device__ __forceinline__ void
DecodeKernel<T, kHeadSize, kHeadBlocks, kWarps, kWindow, kAppends>::merge_parts(
    const Item& item, int num_parts, const Merge& merge_share) const {
  const int heads = args.heads_per_group;
  const Place place = place_of(item);
  T* y = static_cast<T*>(args.y) + place.offset;
  const int num_items = place.num_heads * kQuads;
  // Threads divide the parts too, as far as they go.
  const int num_shares = max(1, min(min(kThreads / num_items, kWarps), num_parts));
  for (int i = threadIdx.x; i < num_items * num_shares; i += kThreads) {
    const int share = i / num_items, quad = i % num_items;
    const int head = quad / kQuads, d = quad % kQuads * 4;
    float2 state;
    const float4 output = merge_share(share, num_shares, head, d, state);
    const int row = share * heads + head;
    *reinterpret_cast<float4*>(part_outputs + row * kPartPitch + d) = output;
    if (d == 0) part_states[row] = state;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < num_items; i += kThreads) {
    const int head = i / kQuads, d = i % kQuads * 4;
    float2 state;
    const float4 output = merge(
        num_shares, [&](int share) { return part_states[share * heads + head]; },
        [&](int share) {
          return *reinterpret_cast<const float4*>(part_outputs +
                                                  (share * heads + head) * kPartPitch + d);
        },
        state);
    write(y + head * kHeadSize + d, output, state.y);
  }
  __syncthreads();
}
/// Zeros for padded rows: sequences of one row without a key.
template <typename T, int kHeadSize>
__device__ __forceinline__ void write_empty_rows(const DecodeArgs& args, const Sums& sums) {
  for (int i = blockIdx.x; i < args.num_sequences; i += gridDim.x) {
    const int2 sequence = sums.sequences[i];
    if (sequence.y != 0) continue;
    wait_for_previous();
    const int size = args.num_heads * kHeadSize / 8;
    auto* y = static_cast<uint4*>(args.y) + int64_t{sequence.x} * size;
    for (int j = threadIdx.x; j < size; j += blockDim.x) y[j] = uint4{};
  }
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ Parted parted[1 + Kernel::kWarps];
  let_next_start();
  auto* part_outputs = reinterpret_cast<float*>(shared);
  const int rows = 2 * Kernel::kWarps * args.heads_per_group;
  auto* part_states = reinterpret_cast<float2*>(part_outputs + rows * Kernel::kPartPitch);
  auto* tiles = reinterpret_cast<int32_t*>(part_states + rows);
  const int num_sums = args.num_sequences + 1;
  const Sums sums = {tiles + 2 * num_sums, tiles + 3 * num_sums, reinterpret_cast<int2*>(tiles)};
  if (threadIdx.x <= Kernel::kWarps) parted[threadIdx.x].num_parts = 0;

  const Work work(sums, args, measure<Kernel::kThreads, Kernel::kWindow, false>(sums, args));
  if (work.begin < work.end) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int share = (work.end - work.begin + Kernel::kWarps - 1) / Kernel::kWarps;
    const int begin = work.begin + warp * share, end = min(begin + share, work.end);
    const int half = rows / 2 * Kernel::kPartPitch, pitch = half / Kernel::kWarps;
    const Kernel kernel{args,  work,        sums,   part_outputs, part_outputs + half,
                        pitch, part_states, parted, share};
    if (begin < end) {
      kernel.run(begin, end);
    } else {
      wait_for_previous();
    }
    kernel.merge_warps();
    kernel.merge_blocks();
  } else if (blockIdx.x == 0) {
    wait_for_previous();  // this kernel must not be done before the ones before it
  }
  write_empty_rows<typename Kernel::T, Kernel::kHeadSize>(args, sums);
}

}  // namespace inflight::cuda::decode
