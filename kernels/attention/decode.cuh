// Attention of generated tokens, one query row to a sequence: reads each key and value once, at the
// speed of the memory.
//
// Every thread block takes an equal share of all keys of the step (decode_work.cuh; "stream-k":
// Osama et al., arXiv 2301.03598) and every warp an equal share of the block's, which it reads tile
// by tile into registers, the next while it computes with the last. What a warp has of an item (a
// sequence's head group) that it does not have whole goes to shared memory, and the block merges
// it; what a block does not have whole goes to the workspace, and the last of those that share the
// item merges it ("flash-decoding").
//
// Tiles on their way lie in registers. Hopper may have them in shared memory (decode_ring.cuh), and
// there thread blocks that do nothing else may merge what others have of a few long items
// (decode_mergers.cuh).
#pragma once

#include "kernels/attention/decode_heads.cuh"
#include "kernels/attention/decode_parts.cuh"
#include "kernels/core/cuda/launch.cuh"

namespace inflight::cuda::decode {

/// Asks the L2 for bytes, a multiple of 16.
__device__ __forceinline__ void prefetch(const void* from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
#endif
}

template <typename T_, int kHeadSize_, int kHeadBlocks_, int kWarps_, bool kWindow_,
          bool kAppends_ = false>
struct DecodeKernel {
  using T = T_;
  static constexpr int kHeadSize = kHeadSize_, kHeadBlocks = kHeadBlocks_;
  static constexpr int kWarps = kWarps_, kThreads = kWarps * 32;
  // Sees a window and sinks only. In a kernel of its own: others have nothing to do for it.
  static constexpr bool kWindow = kWindow_;
  // Queries are rows of qkv to be rotated, and qkv's keys and values go to the cache from here.
  static constexpr bool kAppends = kAppends_;
  static constexpr int kPartPitch = kHeadSize + 8, kQuads = kHeadSize / 4;

  static size_t shared_bytes(int num_sequences, int heads) {
    return 2 * kWarps * heads * part_bytes(kHeadSize) + Sums::bytes(num_sequences);
  }

  const DecodeArgs& args;
  const Work& work;
  const Sums& sums;
  // Parts of items: w of one that began before warp w, and of one that begins in w and goes on.
  float* part_outputs;   // [kWarps][heads][kPartPitch]
  float* begun_outputs;  // the same, begun_pitch elements from warp to warp
  int begun_pitch;
  float2* part_states;  // [2 * kWarps][heads] {maximum, sum}: of part_outputs, of begun_outputs
  Parted* parted;       // [1 + kWarps]: began before this block; in warp w and goes on after it
  int warp_share;       // positions

  /// Where an item's queries and outputs are, and how many heads it has.
  struct Place {
    int64_t offset;   // of outputs
    int64_t queries;  // their offset
    int num_heads;
    int row;
  };
  __device__ __forceinline__ Place place_of(const Item& item) const {
    const int kv_head = args.groups_per_kv_head.quotient(item.group);
    const int index = item.group - kv_head * static_cast<int>(args.groups_per_kv_head.divisor);
    const int first = index * args.heads_per_group;
    const int row = sums.sequences[item.sequence].x;
    const int head = kv_head * args.heads_per_kv_head + first;
    const int row_heads = args.num_heads + (kAppends ? 2 * args.num_kv_heads : 0);
    return {(int64_t{row} * args.num_heads + head) * kHeadSize,
            (int64_t{row} * row_heads + head) * kHeadSize,
            min(args.heads_per_group, args.heads_per_kv_head - first), row};
  }
  /// The newest key of an item's sequence, not rotated, in qkv. Its value is num_kv_heads further.
  __device__ __forceinline__ const T* newest_of(const Item& item) const {
    const int64_t row = sums.sequences[item.sequence].x;
    return static_cast<const T*>(args.q) +
           (row * (args.num_heads + 2 * args.num_kv_heads) + args.num_heads +
            args.groups_per_kv_head.quotient(item.group)) *
               kHeadSize;
  }
  using Heads = HeadGroup<T, kHeadSize, kHeadBlocks>;
  __device__ __forceinline__ void start(Heads& group, const Place& place) const {
    group.start(static_cast<const T*>(args.q) + place.queries, place.num_heads);
  }
  __device__ __forceinline__ void rotate_queries(Heads& group, const Place& place) const {
    if constexpr (kAppends)
      rotate<T, kHeadSize>(group.queries, args.cos_sin + int64_t{place.row} * kHeadSize);
  }
  /// Rotates the tile's newest key and puts it and its value into the cache.
  __device__ __forceinline__ void append(Tile<T, kHeadSize>& tile, const T* from, int index,
                                         const Item& item, const Place& place) const {
    uint32_t key[1][kHeadSize / 8];
#pragma unroll
    for (int i = 0; i < kHeadSize / 8; ++i)
      key[0][i] = index < 8 ? tile.keys[0][i] : tile.keys[1][i];
    rotate<T, kHeadSize>(key, args.cos_sin + int64_t{place.row} * kHeadSize);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kHeadSize / 8; ++j) {
        if (tile.key_of(i) == index) tile.keys[i][j] = key[0][j];
      }
    }
    // The first of the groups that share the kv head.
    const int kv_head = args.groups_per_kv_head.quotient(item.group);
    if (kv_head * static_cast<int>(args.groups_per_kv_head.divisor) != item.group) return;
    T* to = const_cast<T*>(from) + index * kHeadSize;
    tile.store_one(to, to + args.value_offset, index);
  }

  /// Where a tile of an item begins in the cache, and how many keys there are from it on.
  struct Source {
    int block, offset, valid;
  };
  __device__ __forceinline__ Source source_of(const Item& item, int tile) const {
    if constexpr (kWindow) {
      if (tile >= args.sink_tiles)
        tile += tiles_skipped<kWindow>(args, sums.sequences[item.sequence].y);
    }
    const int index = args.tiles_per_block.quotient(tile);
    const int in_block = tile - index * static_cast<int>(args.tiles_per_block.divisor);
    const int kv_head = args.groups_per_kv_head.quotient(item.group);
    const int head_stride = static_cast<int>(args.tiles_per_block.divisor) * kTileKeys * kHeadSize;
    return {args.block_tables[int64_t{item.sequence} * args.max_blocks + index],
            kv_head * head_stride + in_block * kTileKeys * kHeadSize,
            sums.sequences[item.sequence].y - tile * kTileKeys};
  }
  __device__ __forceinline__ const T* address_of(const Source& source) const {
    return static_cast<const T*>(args.cache) + source.block * args.block_stride + source.offset;
  }

  /// Positions [begin, end) by one warp. Keys and values of earlier steps are read before the
  /// kernels before are done, as the step's inputs are: the step's first kernel, which none of its
  /// step overlaps, began after they were written. Only a sequence's last token is of this step,
  /// but for rows of prompts whose other tokens' rows were left out.
  __device__ __forceinline__ void run(int begin, int end) const {
    if (args.is_cache_new) wait_for_previous();
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    Item at = work.item_at(sums, args, begin), ahead = at;
    Source source = source_of(at, begin - at.begin);
    const T* from = address_of(source);
    int valid = source.valid, next = begin + 1;  // of the loaded tile; the next to load

    Tile<T, kHeadSize> tile;
    tile.load_first_keys(from, min(valid - (valid <= kTileKeys), kTileKeys));
    tile.load_first_values(from + args.value_offset, min(valid - (valid <= kTileKeys), kTileKeys));
    // A short share is all asked for at once: then the one tile after the other comes from the L2.
    if (work.share == 0 && end - begin <= args.prefetch_tiles && next + lane < end) {
      const T* later = address_of(source_of(at, next - at.begin + lane));
      prefetch(later, kTileKeys * kHeadSize * sizeof(T));
      prefetch(later + args.value_offset, kTileKeys * kHeadSize * sizeof(T));
    }
    const auto look_up = [&] {
      if (next >= end) return;
      if (next >= ahead.end) ahead.next(sums, args);
      source = source_of(ahead, next - ahead.begin);
    };
    look_up();
    Place place = place_of(at);
    HeadGroup<T, kHeadSize, kHeadBlocks> group;
    const int64_t value_heads = int64_t{args.num_kv_heads} * kHeadSize;
    wait_for_previous();
    start(group, place);
    if (valid <= kTileKeys) {
      const T* key = kAppends ? newest_of(at) : from + (valid - 1) * kHeadSize;
      tile.load_key(key, valid - 1);
      tile.load_value(key + (kAppends ? value_heads : args.value_offset), valid - 1);
    }
    rotate_queries(group, place);

#pragma unroll 1
    for (int position = begin;;) {
      const int stop = min(at.end, end);
#pragma unroll 1
      for (; position < stop; ++position) {
        if constexpr (kAppends) {
          if (valid <= kTileKeys) append(tile, from, valid - 1, at, place);
        }
        typename decltype(group)::Scores scores;
        group.score(tile, scores);
        const int loaded = valid;
        const bool has_next = next < end;
        bool is_appended = false;
        if (has_next) {
          from = address_of(source);
          valid = source.valid;
          is_appended = kAppends && valid <= kTileKeys;
          tile.load_first_keys(from, valid - is_appended);
          if (is_appended) tile.load_key(newest_of(ahead), valid - 1);
        }
        typename decltype(group)::Weights weights;
        const auto is_seen = [&](int key) {
          if constexpr (!kWindow) return key < loaded;
          // Both ends count from the tile's first key: its sequence's row has number `loaded` - 1.
          const int sinks = args.num_sinks + loaded - sums.sequences[at.sequence].y;
          return key < loaded && (key >= loaded - args.window || key < sinks);
        };
        group.weigh(scores, is_seen, args.scale, weights);
        group.accumulate(tile, weights);
        if (has_next) {
          tile.load_first_values(from + args.value_offset, valid - is_appended);
          if (is_appended) tile.load_value(newest_of(ahead) + value_heads, valid - 1);
          ++next;
          look_up();
        }
      }
      finish(group, at, warp, begin, end, place);
      if (stop == end) return;
      at.next(sums, args);
      place = place_of(at);
      start(group, place);
      rotate_queries(group, place);
    }
  }

  /// The end of an item or of the warp's part of it.
  __device__ __forceinline__ void finish(HeadGroup<T, kHeadSize, kHeadBlocks>& group,
                                         const Item& item, int warp, int begin, int end,
                                         const Place& place) const {
    const bool is_first = item.begin >= begin;
    if (is_first && item.end <= end) {
      T* y = static_cast<T*>(args.y) + place.offset;
      group.finish(place.num_heads, [&](int head, int component, auto words, const auto& values,
                                        const float2& state) {
        const float factor = 1.0f / state.y;
        uint32_t packed[words.value];
#pragma unroll
        for (int i = 0; i < words.value; ++i)
          packed[i] = pack(T(), values[2 * i] * factor, values[2 * i + 1] * factor);
        T* to = y + head * kHeadSize + component;
        if constexpr (words.value == 4) {
          *reinterpret_cast<uint4*>(to) = {packed[0], packed[1], packed[2], packed[3]};
        } else if constexpr (words.value == 2) {
          *reinterpret_cast<uint2*>(to) = {packed[0], packed[1]};
        } else {
          *reinterpret_cast<uint32_t*>(to) = packed[0];
        }
      });
      return;
    }
    const int row = (warp + (is_first ? kWarps : 0)) * args.heads_per_group;
    float* part = is_first ? begun_outputs + warp * begun_pitch
                           : part_outputs + warp * args.heads_per_group * kPartPitch;
    group.finish(place.num_heads, [&](int head, int component, auto words, const auto& values,
                                      const float2& state) {
      float* to = part + head * kPartPitch + component;
      if constexpr (words.value == 4) {
        *reinterpret_cast<float4*>(to) = {values[0], values[1], values[2], values[3]};
        *reinterpret_cast<float4*>(to + 4) = {values[4], values[5], values[6], values[7]};
      } else {
#pragma unroll
        for (int i = 0; i < words.value; ++i)
          *reinterpret_cast<float2*>(to + 2 * i) = {values[2 * i], values[2 * i + 1]};
      }
      if (component == 0) part_states[row + head] = state;
    });
    const bool comes_from_before = warp == 0 && item.begin < work.begin;
    if (threadIdx.x % 32 == 0 && (is_first || comes_from_before)) {
      // Exact: the quotient is below kWarps.
      const int last =
          static_cast<int>(__fdividef(min(item.end, work.end) - work.begin - 0.5f, warp_share));
      parted[is_first ? 1 + warp : 0] = {item, place.offset, place.num_heads, last - warp + 1};
    }
  }

  // Defined in decode_kernel.cuh:
  /// Merges the warps' parts. All threads.
  __device__ __forceinline__ void merge_warps() const;
  /// Merges blocks' parts of the items of which this block's was the last. All threads.
  __device__ __forceinline__ void merge_blocks() const;
  __device__ __forceinline__ void merge_item(const Item& item) const;
  /// Merges parts of an item. merge_share(share, num_shares, head, d, state) returns components d
  /// to d + 3 of a head, added up over parts share, share + num_shares, ... of them. All threads.
  template <typename Merge>
  __device__ __forceinline__ void merge_parts(const Item& item, int num_parts,
                                              const Merge& merge_share) const;
  /// What a thread block that only merges does (decode_mergers.cuh). All threads.
  __device__ __forceinline__ void merge_as_they_come() const;
};

}  // namespace inflight::cuda::decode
