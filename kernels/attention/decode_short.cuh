// The decode kernel of few short sequences, with rope and the cache's append in it: a thread block
// to an item (a sequence's kv head), two on a multiprocessor, so that all of them run at once.
// Nothing is measured or divided: a block finds its tiles from its sequence's length alone, and has
// asked for the first of each warp before the kernel before ends. What is left then are the
// queries, a few products and one merge.
//
// A sequence of any length is right, but one much longer than the others has one block alone:
// decode_launch.cuh chooses this where none is long.
#pragma once

#include "kernels/attention/decode_ahead.cuh"
#include "kernels/attention/decode_kernel.cuh"

namespace inflight::cuda::decode {

template <typename T_, int kHeadSize_, int kWarps_, int kTiles_, int kRegisters_>
struct ShortKernel {
  using T = T_;
  static constexpr int kHeadSize = kHeadSize_, kWarps = kWarps_, kThreads = 32 * kWarps;
  static constexpr int kPitch = kHeadSize + 8;            // of a part's outputs
  static constexpr int kTiles = kTiles_;                  // that a warp reads ahead
  static constexpr int kRegisters = kRegisters_;          // of a thread
  static constexpr int kWords = kHeadSize / 64;           // of a row, in lane l: l, l + 32
  static constexpr int kNewestBytes = 2 * 2 * kHeadSize;  // the newest key and value
  using OneTile = Tile<T, kHeadSize>;
  using Group = HeadGroup<T, kHeadSize, 1>;

  static size_t shared_bytes(int heads) {
    return kNewestBytes + kWarps * heads * part_bytes(kHeadSize);
  }

  const DecodeArgs& args;
  uint32_t* newest_row;  // [2][kHeadSize / 2]: the newest key and value
  float* part_outputs;   // [kWarps][heads][kPitch]
  float2* part_states;   // [kWarps][heads] {maximum, sum}
  int row, kv_head, keys;

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

  /// Of a tile's keys, in elements from the cache on.
  __device__ __forceinline__ int64_t offset_of(int tile) const {
    const int index = args.tiles_per_block.quotient(tile);
    const auto tiles = static_cast<int>(args.tiles_per_block.divisor);
    return args.block_tables[int64_t{row} * args.max_blocks + index] * args.block_stride +
           int64_t{kv_head * tiles + tile - index * tiles} * (kTileKeys * kHeadSize);
  }
  /// offset_of the warp's tile number `lane` from `last` on.
  __device__ __forceinline__ int64_t offset_of_lane(int last) const {
    const int tile = last - lane() * kWarps;
    return tile < 0 ? 0 : offset_of(tile);
  }

  /// Reads the queries and, if they are number `newest` of the warp's first tile, the row's key and
  /// value, which go into the tile and, at `to`, into the cache. Behind wait_for_previous().
  __device__ __forceinline__ void start(Group& group, OneTile& tile, int newest, T* to) const {
    const int heads = args.heads_per_group;
    const T* qkv = static_cast<const T*>(args.q) +
                   int64_t{row} * (args.num_heads + 2 * args.num_kv_heads) * kHeadSize;
    const float* cos_sin = args.cos_sin + int64_t{row} * kHeadSize;
    group.start(qkv + kv_head * heads * kHeadSize, heads);
    const bool has_newest = newest < kTileKeys;
    uint32_t key[kWords], value[kWords];
    if (has_newest) {
      const auto* words =
          reinterpret_cast<const uint32_t*>(qkv + (args.num_heads + kv_head) * kHeadSize);
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        key[i] = __ldcg(words + i * 32 + lane());
        value[i] = __ldcg(words + args.num_kv_heads * (kHeadSize / 2) + i * 32 + lane());
      }
    }
    rotate<T, kHeadSize>(group.queries, cos_sin);
    if (has_newest)
      add_newest<T, kHeadSize>(tile, newest, key, value, cos_sin, newest_row, to,
                               args.value_offset);
  }

  /// The warp's part of the item, to shared memory.
  __device__ __forceinline__ void run() const {
    T* cache = static_cast<T*>(const_cast<void*>(args.cache));
    const int last = (keys + kTileKeys - 1) / kTileKeys - 1 - warp();
    constexpr int kStride = kTiles * kWarps;
    OneTile tiles[kTiles];
    Group group;
    int known = last;
    int64_t offsets = offset_of_lane(known);
    if (lane() >= kTiles && last - lane() * kWarps >= 0) {  // those of later rounds, to the L2
      constexpr uint32_t kBytes = kTileKeys * kHeadSize * sizeof(T);
      prefetch(cache + offsets, kBytes);
      prefetch(cache + offsets + args.value_offset, kBytes);
    }
    // The newest tiles first, the warps in turns. The round before the first one only reads.
#pragma unroll 1
    for (int at = last + kStride; at >= 0; at -= kStride) {
      const bool is_first = at > last;
      if ((known - at) / kWarps + 2 * kTiles > 32) {  // not all next tiles are known
        known = at - kStride;
        offsets = offset_of_lane(known);
      }
      const auto next_from = [&](int i) {
        return cache + __shfl_sync(kFullWarp, offsets, (known - at + kStride) / kWarps + i);
      };
      typename Group::Scores scores[kTiles];
      const int old = keys - 1 - (at - kStride) * kTileKeys;  // in the first of the next tiles
      if (!is_first) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (at - i * kWarps >= 0) group.score(tiles[i], scores[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (at - kStride - i * kWarps < 0) continue;
        const T* from = next_from(i);
        if (i == 0) {
          tiles[i].load_keys(from, [&](int key) { return key < old; });
        } else {
          tiles[i].load_keys(from, std::true_type{});
        }
      }
      if (!is_first) {
        typename Group::Weights weights[kTiles];
        const auto keys_from = [&](int i) {
          const int tile = at - i * kWarps;
          return tile >= 0 ? keys - tile * kTileKeys : 0;
        };
        weigh_tiles<T>(group, scores, keys_from, args.scale, weights);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (at - i * kWarps >= 0) group.accumulate(tiles[i], weights[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (at - kStride - i * kWarps < 0) continue;
        const T* from = next_from(i) + args.value_offset;
        if (i == 0) {
          if (old < kTileKeys) clear(tiles[i].values);
          tiles[i].load_values(from, [&](int key) { return key < old; });
        } else {
          tiles[i].load_values(from, std::true_type{});
        }
      }
      if (is_first) {
        wait_for_previous();
        start(group, tiles[0], last < 0 ? kTileKeys : old,
              cache + __shfl_sync(kFullWarp, offsets, 0) + old * kHeadSize);
      }
    }
    const int heads = args.heads_per_group;
    group.finish(heads,
                 [&](int head, int component, auto words, const auto& values, const float2& state) {
                   static_assert(words.value == 4);
                   const int index = warp() * heads + head;
                   auto* to = reinterpret_cast<float4*>(part_outputs + index * kPitch + component);
                   to[0] = {values[0], values[1], values[2], values[3]};
                   to[1] = {values[4], values[5], values[6], values[7]};
                   if (component == 0) part_states[index] = state;
                 });
  }

  /// The first warps' parts to the item's outputs.
  __device__ __forceinline__ void merge_warps(int num_warps) const {
    const int heads = args.heads_per_group;
    T* y = static_cast<T*>(args.y) + (int64_t{row} * args.num_heads + kv_head * heads) * kHeadSize;
#pragma unroll 1
    for (int element = static_cast<int>(threadIdx.x) * 4; element < heads * kHeadSize;
         element += kThreads * 4) {
      const int head = element / kHeadSize;
      float2 state;
      const float4 sums = merge(
          num_warps, [&](int w) { return part_states[w * heads + head]; },
          [&](int w) {
            return *reinterpret_cast<const float4*>(part_outputs + (w * heads + head) * kPitch +
                                                    element % kHeadSize);
          },
          state);
      const float factor = __fdividef(1.0f, state.y);
      *reinterpret_cast<uint2*>(y + element) = {pack(T(), sums.x * factor, sums.y * factor),
                                                pack(T(), sums.z * factor, sums.w * factor)};
    }
  }
};

/// Grid: [sequences, kv heads] blocks; a row to each sequence, in order.
template <typename Kernel>
__global__ void __maxnreg__(Kernel::kRegisters)
    short_kernel(const __grid_constant__ DecodeArgs args) {
  using T = typename Kernel::T;
  extern __shared__ __align__(16) uint8_t shared[];
  let_next_start();
  const auto row = static_cast<int>(blockIdx.y), kv_head = static_cast<int>(blockIdx.x);
  const int keys = args.kv_lengths[row], heads = args.heads_per_group;
  auto* part_outputs = reinterpret_cast<float*>(shared + Kernel::kNewestBytes);
  auto* part_states =
      reinterpret_cast<float2*>(part_outputs + Kernel::kWarps * heads * Kernel::kPitch);
  if (keys <= 0) {  // a row of padding
    wait_for_previous();
    T* y = static_cast<T*>(args.y) +
           (int64_t{row} * args.num_heads + kv_head * heads) * Kernel::kHeadSize;
    for (int i = static_cast<int>(threadIdx.x); i < heads * Kernel::kHeadSize / 8;
         i += Kernel::kThreads)
      reinterpret_cast<uint4*>(y)[i] = uint4{};
    return;
  }
  const Kernel kernel{
      args, reinterpret_cast<uint32_t*>(shared), part_outputs, part_states, row, kv_head, keys};
  const int tiles = (keys + kTileKeys - 1) / kTileKeys;
  if (static_cast<int>(threadIdx.x) / 32 < tiles) kernel.run();
  __syncthreads();
  kernel.merge_warps(min(tiles, Kernel::kWarps));
}

}  // namespace inflight::cuda::decode
