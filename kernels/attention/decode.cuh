// Attention of generated tokens, one query row to a sequence: reads each key and value once, at the
// speed of the memory.
//
// The step's work is one row of tiles of 16 keys: sequence by sequence, head group by head group
// (the query heads that share a kv head), tile by tile. Each thread block takes an equal share of
// it, wherever that begins and ends ("stream-k": Osama et al., arXiv 2301.03598), and deals it to
// its warps tile by tile; a warp has its own ring of tiles on their way from memory. Where a head
// group of a sequence ends the warps merge their sums. What a thread block has of a group that it
// does not have whole goes to the workspace, and the last of those that share it merges them.
#pragma once

#include "kernels/attention/decode_tile.cuh"
#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/launch.cuh"

namespace inflight::cuda::decode {

struct DecodeArgs {
  const void* q;
  const void* cache;
  void* y;
  const int32_t* block_tables;
  const int32_t* query_starts;
  const int32_t* kv_lengths;
  int64_t block_stride;  // elements from block to block
  int64_t value_offset;  // elements from a key to its value
  int32_t tiles_per_block;
  int32_t num_sequences, max_blocks;
  int32_t num_heads;
  int32_t num_groups;  // head groups of a sequence
  int32_t heads_per_kv_head;
  int32_t groups_per_kv_head;
  int32_t heads_per_group;  // the last group of a kv head may have fewer
  int32_t min_share;        // tiles
  float scale;              // to exponents of 2
  float* partial_outputs;   // [2 * thread blocks, heads_per_group, head_size]
  float2* partial_states;   // [2 * thread blocks, heads_per_group] {maximum, sum}
  uint32_t* counters;       // [thread blocks] zero
};

/// Walks head groups in order. Positions are tiles in the step's whole work.
struct WorkCursor {
  const int32_t* first_tiles;  // [num_sequences + 1] tiles before a sequence, of one head group
  int num_sequences, num_groups;
  int sequence, group;
  int begin, end;  // of the head group

  __device__ __forceinline__ WorkCursor(const int32_t* first, const DecodeArgs& args, int at)
      : first_tiles(first), num_sequences(args.num_sequences), num_groups(args.num_groups) {
    int low = 0, high = num_sequences;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first[middle] * num_groups <= at ? low : high) = middle;
    }
    sequence = low;
    const int tiles = max(num_tiles(), 1);
    group = (at - first[low] * num_groups) / tiles;
    begin = first[low] * num_groups + group * tiles;
    end = begin + tiles;
  }
  __device__ __forceinline__ int num_tiles() const {
    return first_tiles[sequence + 1] - first_tiles[sequence];
  }
  __device__ __forceinline__ void next() {
    if (++group == num_groups) {
      group = 0;
      do ++sequence;
      while (sequence < num_sequences && num_tiles() == 0);
    }
    begin = end;
    end += sequence < num_sequences ? num_tiles() : 1 << 30;
  }
};

/// Writes first_tiles as WorkCursor wants it; sequences with other than one row have none.
template <int kThreads>
__device__ __forceinline__ void count_tiles(const DecodeArgs& args, int32_t* first_tiles) {
  __shared__ int32_t warp_totals[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (args.num_sequences + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * each, args.num_sequences);
  const int end = min(begin + each, args.num_sequences);
  int total = 0;
  for (int i = begin; i < end; ++i) {
    const bool is_one = args.query_starts[i + 1] - args.query_starts[i] == 1;
    const int tiles = is_one ? (max(args.kv_lengths[i], 0) + kTileKeys - 1) / kTileKeys : 0;
    first_tiles[i + 1] = tiles;
    total += tiles;
  }
  int before = total;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) warp_totals[warp] = before;
  before -= total;
  __syncthreads();
  for (int i = 0; i < warp; ++i) before += warp_totals[i];
  if (threadIdx.x == 0) first_tiles[0] = 0;
  for (int i = begin; i < end; ++i) {
    before += first_tiles[i + 1];
    first_tiles[i + 1] = before;
  }
  __syncthreads();
}

template <typename T_, int kHeadSize_, int kHeadBlocks_, int kWarps_, int kStages_>
struct DecodeKernel {
  using T = T_;
  static constexpr int kHeadSize = kHeadSize_, kHeadBlocks = kHeadBlocks_;
  static constexpr int kWarps = kWarps_, kStages = kStages_;
  static constexpr int kThreads = kWarps * 32;
  using Group = HeadGroup<T, kHeadSize, kHeadBlocks>;
  static constexpr int kTileElements = kTileKeys * Group::kPitch;
  static constexpr int kMergePitch = kHeadSize + 4;

  /// Of a launch with so many sequences and heads to a group.
  static size_t shared_bytes(int num_sequences, int heads) {
    return sizeof(T) * kWarps * kStages * 2 * kTileElements +
           sizeof(float) * kWarps * heads * (kMergePitch + 2) +
           sizeof(int32_t) * (num_sequences + 1);
  }

  const DecodeArgs& args;
  uint32_t ring;         // this warp's
  float* merge_outputs;  // [kWarps][heads][kMergePitch]
  float2* merge_states;  // [kWarps][heads]
  int begin, end;        // tiles of this thread block
  int share;

  /// Starts to copy one tile to a slot of the ring.
  __device__ __forceinline__ void copy_tile(int slot, const T* keys, int valid) const {
    constexpr int kChunks = kHeadSize / 8;
    const int lane = threadIdx.x % 32;
    const uint32_t to = ring + slot * 2 * kTileElements * sizeof(T);
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

  /// The merged sum of a thread's 4 components of one head over `count` states and outputs, found
  /// by index through `state_at` and `output_at`.
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

  /// The end of a head group, or of this thread block's part of it: all warps have stored.
  __device__ __forceinline__ void finish(const WorkCursor& at, T* y, int num_heads) const {
    constexpr int kQuads = kHeadSize / 4;
    const int heads = args.heads_per_group;
    const int first_block = at.begin / share, last_block = (at.end - 1) / share;
    const bool is_whole = first_block == last_block;
    const int own = 2 * blockIdx.x + (static_cast<int>(blockIdx.x) == first_block ? 1 : 0);
    for (int i = threadIdx.x; i < num_heads * kQuads; i += kThreads) {
      const int head = i / kQuads, d = i % kQuads * 4;
      float2 state;
      const float4 output = merge(
          kWarps, [&](int warp) { return merge_states[warp * heads + head]; },
          [&](int warp) {
            return *reinterpret_cast<const float4*>(merge_outputs +
                                                    (warp * heads + head) * kMergePitch + d);
          },
          state);
      if (is_whole) {
        write(y + head * kHeadSize + d, output, state.y);
      } else {
        const int to = own * heads + head;
        *reinterpret_cast<float4*>(args.partial_outputs + int64_t{to} * kHeadSize + d) = output;
        if (d == 0) args.partial_states[to] = state;
      }
    }
    if (is_whole) return;

    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    const auto num_parts = static_cast<uint32_t>(last_block - first_block + 1);
    if (threadIdx.x == 0) {
      is_last = atomicAdd(args.counters + first_block, 1) + 1 == num_parts;
      if (is_last) args.counters[first_block] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int i = threadIdx.x; i < num_heads * kQuads; i += kThreads) {
      const int head = i / kQuads, d = i % kQuads * 4;
      float2 state;
      // The first has the group's beginning at the end of its share, the others at the beginning.
      const auto index_of = [&](int part) {
        return (2 * (first_block + part) + (part == 0 ? 1 : 0)) * heads + head;
      };
      const float4 output = merge(
          num_parts, [&](int part) { return __ldcg(args.partial_states + index_of(part)); },
          [&](int part) {
            return __ldcg(reinterpret_cast<const float4*>(args.partial_outputs +
                                                          int64_t{index_of(part)} * kHeadSize + d));
          },
          state);
      write(y + head * kHeadSize + d, output, state.y);
    }
  }

  /// All of this thread block's share. Keys and values of earlier steps are read before the
  /// kernels before are done, as the step's inputs are: the step's first kernel began after they
  /// were written. Only a sequence's last token is of this step.
  __device__ __forceinline__ void run(const int32_t* first_tiles) const {
    const int warp = threadIdx.x / 32;
    const T* cache = static_cast<const T*>(args.cache);
    const int64_t head_stride = int64_t{args.tiles_per_block} * kTileKeys * kHeadSize;

    WorkCursor source(first_tiles, args, begin);
    int next = begin + warp;    // the tile to copy next
    int block = 0, length = 0;  // of it
    const auto look_up = [&] {
      while (next >= source.end) source.next();
      if (next >= end) return;
      block = args.block_tables[int64_t{source.sequence} * args.max_blocks +
                                (next - source.begin) / args.tiles_per_block];
      length = args.kv_lengths[source.sequence];
    };
    const auto copy_next = [&](int slot, auto wait_for_last) {
      if (next < end) {
        const int tile = next - source.begin, valid = length - tile * kTileKeys;
        if (valid <= kTileKeys) wait_for_last();
        const int kv_head = source.group / args.groups_per_kv_head;
        copy_tile(slot,
                  cache + block * args.block_stride + kv_head * head_stride +
                      tile % args.tiles_per_block * kTileKeys * kHeadSize,
                  valid);
        next += kWarps;
        look_up();
      }
      end_copy_group();
    };
    look_up();
    bool has_waited = false;
#pragma unroll 1
    for (int slot = 0; slot < kStages; ++slot) {
      copy_next(slot, [&] {
        if (!has_waited) wait_for_previous();
        has_waited = true;
      });
    }
    if (!has_waited) wait_for_previous();

    int slot = 0, tile = begin + warp;
    for (WorkCursor at(first_tiles, args, begin); at.begin < end; at.next()) {
      const int kv_head = at.group / args.groups_per_kv_head;
      const int in_kv_head = at.group % args.groups_per_kv_head * args.heads_per_group;
      const int num_heads = min(args.heads_per_group, args.heads_per_kv_head - in_kv_head);
      const int64_t offset = (int64_t{args.query_starts[at.sequence]} * args.num_heads +
                              kv_head * args.heads_per_kv_head + in_kv_head) *
                             kHeadSize;
      const int keys = args.kv_lengths[at.sequence];
      Group group;
      group.start(static_cast<const T*>(args.q) + offset, num_heads);
      const int stop = min(at.end, end);
      for (; tile < stop; tile += kWarps) {
        wait_for_copies<kStages - 1>();
        __syncwarp();
        const uint32_t from = ring + slot * 2 * kTileElements * sizeof(T);
        group.add(from, from + kTileElements * sizeof(T), keys - (tile - at.begin) * kTileKeys,
                  args.scale);
        __syncwarp();
        copy_next(slot, [] {});
        slot = slot + 1 == kStages ? 0 : slot + 1;
      }
      group.store(merge_outputs + warp * args.heads_per_group * kMergePitch, kMergePitch,
                  merge_states + warp * args.heads_per_group, num_heads);
      __syncthreads();
      finish(at, static_cast<T*>(args.y) + offset, num_heads);
      __syncthreads();
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
__global__ void __launch_bounds__(Kernel::kThreads)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(16) uint8_t shared[];
  using T = typename Kernel::T;
  let_next_start();
  T* ring = reinterpret_cast<T*>(shared);
  constexpr int kWarpRing = Kernel::kStages * 2 * Kernel::kTileElements;
  auto* merge_outputs = reinterpret_cast<float*>(ring + Kernel::kWarps * kWarpRing);
  const int merge_rows = Kernel::kWarps * args.heads_per_group;
  auto* merge_states = reinterpret_cast<float2*>(merge_outputs + merge_rows * Kernel::kMergePitch);
  auto* first_tiles = reinterpret_cast<int32_t*>(merge_states + merge_rows);

  count_tiles<Kernel::kThreads>(args, first_tiles);
  const int total = first_tiles[args.num_sequences] * args.num_groups;
  const int blocks = static_cast<int>(gridDim.x);
  const int share = max((total + blocks - 1) / blocks, args.min_share);
  const int begin = min(static_cast<int>(blockIdx.x) * share, total);
  const int end = min(begin + share, total);
  if (begin < end) {
    Kernel{args,          shared_address(ring + threadIdx.x / 32 * kWarpRing),
           merge_outputs, merge_states,
           begin,         end,
           share}
        .run(first_tiles);
  } else {
    wait_for_previous();
  }
  write_empty_rows<T, Kernel::kHeadSize>(args);
}

}  // namespace inflight::cuda::decode
