// Attention of generated tokens, one query row to a sequence: reads each key and value once, at the
// speed of the memory.
//
// Every thread block takes an equal share of all keys of the step (decode_work.cuh; "stream-k":
// Osama et al., arXiv 2301.03598) and deals it to its warps tile by tile; a warp has its own ring
// of tiles on their way from memory. Where an item (a sequence's head group) ends the warps merge
// their sums. What a thread block has of an item that it does not have whole goes to the workspace,
// and the last of those that share the item merges them ("flash-decoding").
#pragma once

#include <type_traits>

#include "kernels/attention/decode_work.cuh"
#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/launch.cuh"

namespace inflight::cuda::decode {

template <typename T_, int kHeadSize_, int kHeadBlocks_, int kWarps_>
struct DecodeKernel {
  using T = T_;
  static constexpr int kHeadSize = kHeadSize_, kHeadBlocks = kHeadBlocks_;
  static constexpr int kWarps = kWarps_, kThreads = kWarps * 32;
  using Group = HeadGroup<T, kHeadSize, kHeadBlocks>;
  static constexpr int kTileElements = kTileKeys * Group::kPitch;
  static constexpr uint32_t kSlotBytes = 2 * kTileElements * sizeof(T);  // keys, values
  static constexpr int kMergePitch = kHeadSize + 4, kQuads = kHeadSize / 4;

  const DecodeArgs& args;
  const Work& work;
  const Sums& sums;
  uint32_t ring;         // this warp's
  float* merge_outputs;  // [buffers][kWarps][heads][kMergePitch], used in turn
  float2* merge_states;  // [buffers][kWarps][heads]
  // Warps that have stored to, and merges done of, either buffer; whether a part was the last.
  uint32_t* merge_counts;

  /// Starts to copy one tile to a slot of the ring; keys from `valid` on become zeros.
  __device__ __forceinline__ void copy_tile(int slot, const T* keys, int valid) const {
    constexpr int kChunks = kHeadSize / 8;
    const int lane = threadIdx.x % 32;
    const uint32_t to = ring + slot * kSlotBytes;
    const auto copy = [&](auto is_whole) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const T* from = keys + side * args.value_offset + lane * 8;
#pragma unroll
        for (int i = 0; i < kTileKeys * kChunks / 32; ++i) {
          const int chunk = i * 32 + lane, row = chunk / kChunks;
          const uint32_t target =
              to + (side * kTileElements + row * Group::kPitch + chunk % kChunks * 8) * sizeof(T);
          if constexpr (is_whole.value) {
            copy16_async(target, from + i * 256);
          } else {
            copy16_async(target, from + i * 256, row < valid);
          }
        }
      }
    };
    if (valid >= kTileKeys) {
      copy(std::true_type{});
    } else {
      copy(std::false_type{});
    }
  }

  /// Adds up `count` parts of 4 components of one head. state_at(i) is {maximum, sum} of part i,
  /// output_at(i) its components.
  template <typename States, typename Outputs>
  static __device__ __forceinline__ float4 merge(int count, const States& state_at,
                                                 const Outputs& output_at, float2& state) {
    state = make_float2(-INFINITY, 0);
    float4 output = {};
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      const float2 other = state_at(i);
      const float4 more = output_at(i);
      const float maximum = fmaxf(state.x, other.x);
      const float scale = state.x == -INFINITY ? 0.0f : exp2_fast(state.x - maximum);
      const float factor = other.x == -INFINITY ? 0.0f : exp2_fast(other.x - maximum);
      state = make_float2(maximum, state.y * scale + other.y * factor);
      output.x = output.x * scale + more.x * factor;
      output.y = output.y * scale + more.y * factor;
      output.z = output.z * scale + more.z * factor;
      output.w = output.w * scale + more.w * factor;
    }
    return output;
  }

  static __device__ __forceinline__ void write(T* y, const float4& output, float sum) {
    const float factor = 1.0f / sum;
    uint2 both;
    both.x = pack(static_cast<T*>(nullptr), output.x * factor, output.y * factor);
    both.y = pack(static_cast<T*>(nullptr), output.z * factor, output.w * factor);
    *reinterpret_cast<uint2*>(y) = both;
  }

  /// Adds up rows `first_row` + i * heads_per_group + head of the merge buffer, i < count.
  __device__ __forceinline__ float4 merge_rows(int count, int first_row, int head, int d,
                                               float2& state) const {
    return merge(
        count, [&](int i) { return merge_states[first_row + i * args.heads_per_group + head]; },
        [&](int i) {
          return *reinterpret_cast<const float4*>(
              merge_outputs + (first_row + i * args.heads_per_group + head) * kMergePitch + d);
        },
        state);
  }

  /// The end of an item that is this thread block's alone: the last warp to get here merges; the
  /// others go on. `index` counts such items.
  __device__ __forceinline__ void finish_whole(Group& group, int index, T* y, int num_heads) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int buffer = index % args.merge_buffers;
    const int first_row = buffer * kWarps * args.heads_per_group;
    volatile uint32_t* num_merged = merge_counts + 2 + buffer;
    while (*num_merged != static_cast<uint32_t>(index / args.merge_buffers)) __nanosleep(20);
    store(group, first_row + warp * args.heads_per_group, num_heads);
    __threadfence_block();
    __syncwarp();
    uint32_t num_before = 0;
    if (lane == 0) num_before = atomicAdd(merge_counts + buffer, 1);
    if (__shfl_sync(kFullWarp, num_before, 0) % kWarps != kWarps - 1) return;
    __threadfence_block();
    for (int i = lane; i < num_heads * kQuads; i += 32) {
      const int head = i / kQuads, d = i % kQuads * 4;
      float2 state;
      const float4 output = merge_rows(kWarps, first_row, head, d, state);
      write(y + head * kHeadSize + d, output, state.y);
    }
    __syncwarp();
    __threadfence_block();
    if (lane == 0) *num_merged = index / args.merge_buffers + 1;
  }

  /// The end of this thread block's part of an item that others have parts of. All threads; such
  /// items come before those that are whole.
  __device__ __forceinline__ void finish_shared(Group& group, int2 blocks, T* y,
                                                int num_heads) const {
    const int heads = args.heads_per_group, block = static_cast<int>(blockIdx.x);
    const int num_items = num_heads * kQuads;
    store(group, threadIdx.x / 32 * heads, num_heads);
    __syncthreads();
    // A thread block has at most one part that begins an item and one that does not.
    const int own = 2 * block + (block == blocks.x ? 1 : 0);
    for (int i = threadIdx.x; i < num_items; i += kThreads) {
      const int head = i / kQuads, d = i % kQuads * 4, to = own * heads + head;
      float2 state;
      const float4 output = merge_rows(kWarps, 0, head, d, state);
      *reinterpret_cast<float4*>(args.partial_outputs + int64_t{to} * kHeadSize + d) = output;
      if (d == 0) args.partial_states[to] = state;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t* counter = args.counters + blocks.x;
      const bool is_last = atomicAdd(counter, 1) + 1 == static_cast<uint32_t>(blocks.y);
      if (is_last) *counter = 0;
      merge_counts[4] = is_last;
    }
    __syncthreads();
    if (merge_counts[4] == 0) return;
    __threadfence();
    // Threads divide the parts too, as far as they go.
    const int num_shares = max(1, min(kThreads / num_items, kWarps));
    for (int i = threadIdx.x; i < num_items * num_shares; i += kThreads) {
      const int share = i / num_items, item = i % num_items;
      const int head = item / kQuads, d = item % kQuads * 4;
      const auto index_of = [&](int j) {
        const int part = share + j * num_shares;
        return (2 * (blocks.x + part) + (part == 0 ? 1 : 0)) * heads + head;
      };
      float2 state;
      const float4 output =
          merge((blocks.y - share + num_shares - 1) / num_shares,
                [&](int j) { return __ldcg(args.partial_states + index_of(j)); },
                [&](int j) {
                  return __ldcg(reinterpret_cast<const float4*>(
                      args.partial_outputs + int64_t{index_of(j)} * kHeadSize + d));
                },
                state);
      const int row = share * heads + head;
      *reinterpret_cast<float4*>(merge_outputs + row * kMergePitch + d) = output;
      if (d == 0) merge_states[row] = state;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < num_items; i += kThreads) {
      const int head = i / kQuads, d = i % kQuads * 4;
      float2 state;
      const float4 output = merge_rows(num_shares, 0, head, d, state);
      write(y + head * kHeadSize + d, output, state.y);
    }
  }

  __device__ __forceinline__ void store(Group& group, int row, int num_heads) const {
    group.store(merge_outputs + row * kMergePitch, kMergePitch, merge_states + row, num_heads);
  }

  /// Where an item's queries and outputs are, and how many heads it has.
  struct Place {
    int64_t offset;
    int num_heads;
  };
  __device__ __forceinline__ Place place_of(const Item& item) const {
    const int kv_head = args.groups_per_kv_head.quotient(item.group);
    const int index = item.group - kv_head * static_cast<int>(args.groups_per_kv_head.divisor);
    const int first = index * args.heads_per_group;
    const int64_t row = sums.sequences[item.sequence].x;
    return {(row * args.num_heads + kv_head * args.heads_per_kv_head + first) * kHeadSize,
            min(args.heads_per_group, args.heads_per_kv_head - first)};
  }

  /// All of this thread block's share. Keys and values of earlier steps are read before the
  /// kernels before are done, as the step's inputs are: the step's first kernel began after they
  /// were written. Only a sequence's last token is of this step.
  __device__ __forceinline__ void run() const {
    const int warp = threadIdx.x / 32;
    const T* cache = static_cast<const T*>(args.cache);
    const int head_stride = args.tiles_per_block.divisor * kTileKeys * kHeadSize;
    const int total = work.end - work.begin;

    Walk at(work, sums, args), source = at;
    int next = warp;                       // the tile to copy next
    int block = 0, offset = 0, valid = 0;  // where it is; keys from it to the end
    const auto look_up = [&] {
      if (next >= total) return;
      while (next >= source.end) source.next(work, sums, args);
      const int tile = next - source.begin + source.first_tile;
      const int index = args.tiles_per_block.quotient(tile);
      block = args.block_tables[int64_t{source.item.sequence} * args.max_blocks + index];
      const int kv_head = args.groups_per_kv_head.quotient(source.item.group);
      const int in_block = tile - index * static_cast<int>(args.tiles_per_block.divisor);
      offset = kv_head * head_stride + in_block * kTileKeys * kHeadSize;
      valid = sums.sequences[source.item.sequence].y - tile * kTileKeys;
    };
    const auto copy_next = [&](int slot, auto wait_for_last) {
      if (next < total) {
        if (valid <= kTileKeys) wait_for_last();
        copy_tile(slot, cache + block * args.block_stride + offset, valid);
        next += kWarps;
        look_up();
      }
      end_copy_group();
    };
    look_up();
    bool has_waited = false;
#pragma unroll 1
    for (int slot = 0; slot < args.num_stages; ++slot) {
      copy_next(slot, [&] {
        if (!has_waited) wait_for_previous();
        has_waited = true;
      });
    }
    if (!has_waited) wait_for_previous();

    const T* q = static_cast<const T*>(args.q);
    T* y = static_cast<T*>(args.y);
    typename Group::Queries queries;  // of the next item
    Place place = place_of(at.item);
    Group::load_queries(queries, q + place.offset, place.num_heads);
    int slot = 0, tile = warp, num_whole = 0;
    while (!at.is_done()) {
      Group group;
      group.start(queries);
      Walk following = at;
      following.next(work, sums, args);
      Place following_place = {};
      if (!following.is_done()) {
        following_place = place_of(following.item);
        Group::load_queries(queries, q + following_place.offset, following_place.num_heads);
      }
      const int keys = sums.sequences[at.item.sequence].y - at.first_tile * kTileKeys;
      for (; tile < at.end; tile += kWarps) {
        wait_for_copies(args.num_stages - 1);
        __syncwarp();
        const uint32_t from = ring + slot * kSlotBytes;
        group.add(from, from + kTileElements * sizeof(T), keys - (tile - at.begin) * kTileKeys,
                  args.scale);
        __syncwarp();
        copy_next(slot, [] {});
        slot = slot + 1 == args.num_stages ? 0 : slot + 1;
      }
      if (work.is_whole(at.item)) {
        finish_whole(group, num_whole++, y + place.offset, place.num_heads);
      } else {
        finish_shared(group, work.blocks_of(at.item), y + place.offset, place.num_heads);
        __syncthreads();
      }
      at = following;
      place = following_place;
    }
  }
};

/// Zeros for padded rows: sequences of one row without a key.
template <typename T, int kHeadSize>
__device__ __forceinline__ void write_empty_rows(const DecodeArgs& args) {
  for (int i = blockIdx.x; i < args.num_sequences; i += gridDim.x) {
    const int row = args.query_starts[i];
    if (args.kv_lengths[i] > 0 || args.query_starts[i + 1] - row != 1) continue;
    const int size = args.num_heads * kHeadSize / 8;
    auto* y = static_cast<uint4*>(args.y) + int64_t{row} * size;
    for (int j = threadIdx.x; j < size; j += blockDim.x) y[j] = uint4{};
  }
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(16) uint8_t shared[];
  let_next_start();
  const uint32_t ring_bytes = args.num_stages * Kernel::kSlotBytes;
  auto* merge_outputs = reinterpret_cast<float*>(shared + Kernel::kWarps * ring_bytes);
  const int merge_rows = args.merge_buffers * Kernel::kWarps * args.heads_per_group;
  auto* merge_states = reinterpret_cast<float2*>(merge_outputs + merge_rows * Kernel::kMergePitch);
  auto* tiles = reinterpret_cast<int32_t*>(merge_states + merge_rows);
  const int num_sums = args.num_sequences + 1;
  const Sums sums = {tiles + 2 * num_sums, tiles + 3 * num_sums, reinterpret_cast<int2*>(tiles)};

  __shared__ uint32_t merge_counts[5];
  if (threadIdx.x < 5) merge_counts[threadIdx.x] = 0;

  const Work work(sums, args, measure<Kernel::kThreads>(sums, args));
  if (work.begin < work.end) {
    Kernel{args,          work,
           sums,          shared_address(shared) + threadIdx.x / 32 * ring_bytes,
           merge_outputs, merge_states,
           merge_counts}
        .run();
  } else {
    wait_for_previous();
  }
  write_empty_rows<typename Kernel::T, Kernel::kHeadSize>(args);
}

}  // namespace inflight::cuda::decode
