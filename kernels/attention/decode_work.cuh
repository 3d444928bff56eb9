// How the decode kernel divides a step among its thread blocks: each finds its own part from the
// sequences' lengths, before the kernels before it are done.
//
// The step's work is one row of tiles of 16 keys: sequence by sequence, head group by head group
// (the query heads that share a kv head), tile by tile. A position is a tile of that row. Tiles
// that a window leaves out have no place in it.
#pragma once

#include <climits>
#include <cstdint>

#include "kernels/attention/decode_tile.cuh"

namespace inflight::cuda::decode {

/// Divides by a number that the host knows: n / divisor for 0 <= n < 2^32 / divisor.
struct Divisor {
  uint32_t divisor, magic;  // 2^32 / divisor, rounded up

  explicit Divisor(int64_t by)
      : divisor(static_cast<uint32_t>(by)),
        magic(static_cast<uint32_t>(((uint64_t{1} << 32) + divisor - 1) / divisor)) {}
  __device__ __forceinline__ int quotient(int n) const {
    return divisor == 1 ? n : static_cast<int>(__umulhi(n, magic));
  }
};

struct DecodeArgs {
  const void* q;  // or qkv, of a kernel that appends
  const void* cache;
  void* y;
  const float* cos_sin;  // [rows, 2, head_size / 2], of a kernel that appends
  const int32_t* block_tables;
  const int32_t* query_starts;  // null: every sequence has one row
  const int32_t* kv_lengths;
  int64_t block_stride;  // elements from block to block
  int64_t value_offset;  // elements from a key to its value
  Divisor tiles_per_block;
  int32_t num_sequences, max_blocks;
  int32_t num_heads, num_kv_heads;
  int32_t num_groups;  // head groups of a sequence
  int32_t heads_per_kv_head;
  Divisor groups_per_kv_head;
  int32_t heads_per_group;    // the last group of a kv head may have fewer
  Divisor quads_per_group;    // heads_per_group * head_size / 4
  int32_t prefetch_tiles;     // of a warp, into the L2, at most 32
  float scale;                // to exponents of 2
  float* partial_outputs;     // [2 * thread blocks, heads_per_group, head_size]
  float2* partial_states;     // [2 * thread blocks, heads_per_group] {maximum, sum}
  uint32_t* counters;         // [thread blocks] zero
  int32_t window, num_sinks;  // of a kernel with a window
  int32_t sink_tiles;         // those with sinks
  bool is_cache_new;          // more than a sequence's last key may be of this step
  uint32_t zero;              // as behind() takes it, of a kernel with rings
  bool blocks_may_wait;       // for each other
};

/// Tiles of a sequence of so many keys that its row does not see. They lie behind those with sinks,
/// and are not counted.
template <bool kWindow>
__device__ __forceinline__ int tiles_skipped(const DecodeArgs& args, int keys) {
  if constexpr (!kWindow) return 0;
  return max((keys - args.window) / kTileKeys - args.sink_tiles, 0);
}

/// Running sums over the sequences in shared memory, [num_sequences + 1] each, of one head group;
/// a sequence with other than one row has none.
struct Sums {
  int32_t* tiles;
  int32_t* chunks;
  int2* sequences;  // [num_sequences] first row, keys; -1 keys: not this kernel's

  static size_t bytes(int num_sequences) { return 4 * sizeof(int32_t) * (num_sequences + 1); }
};

/// The sum of `value` over this lane and those before it; `count` lanes at most are not zero.
__device__ __forceinline__ int sum_before(int value, int count = 32) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int offset = 1; offset < count; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, value, offset);
    if (lane >= offset) value += other;
  }
  return value;
}

/// sums[i + 1] = value(0) + ... + value(i). All threads of the block; ends with a barrier.
template <int kThreads, typename Value>
__device__ __forceinline__ void add_up(int count, int32_t* sums, const Value& value) {
  __shared__ int warp_totals[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (count + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * each, count);
  const int end = min(begin + each, count);
  int total = 0;
  for (int i = begin; i < end; ++i) sums[i + 1] = total += value(i);
  int before = sum_before(total);
  if (lane == 31) warp_totals[warp] = before;
  before -= total;
  __syncthreads();
  for (int i = 0; i < warp; ++i) before += warp_totals[i];
  if (threadIdx.x == 0) sums[0] = 0;
  for (int i = begin; i < end; ++i) sums[i + 1] += before;
  __syncthreads();
}

/// The sequence that has index `at` of all groups' entries counted by `sums`. All lanes of the warp
/// with the same arguments.
__device__ __forceinline__ int find_sequence(const int32_t* sums, const DecodeArgs& args, int at) {
  const int lane = threadIdx.x % 32;
  int low = 0, count = args.num_sequences;
  while (count > 1) {
    const int step = (count + 31) / 32;
    const bool is_before = lane * step < count && sums[low + lane * step] * args.num_groups <= at;
    const int last = 31 - __clz(static_cast<int>(__ballot_sync(kFullWarp, is_before)));
    low += last * step;
    count = min(step, count - last * step);
  }
  return low;
}

/// A sequence's head group: positions [begin, end).
struct Item {
  int sequence, group;
  int begin, end;

  __device__ __forceinline__ static Item at(const Sums& sums, const DecodeArgs& args,
                                            int position) {
    const int sequence = find_sequence(sums.tiles, args, position);
    const int first = sums.tiles[sequence] * args.num_groups;
    const int tiles = sums.tiles[sequence + 1] - sums.tiles[sequence];
    const int group = (position - first) / tiles;
    return {sequence, group, first + group * tiles, first + (group + 1) * tiles};
  }
  /// There must be one.
  __device__ __forceinline__ void next(const Sums& sums, const DecodeArgs& args) {
    if (++group == args.num_groups) {
      group = 0;
      do ++sequence;
      while (sums.tiles[sequence + 1] == sums.tiles[sequence]);
    }
    begin = end;
    end += sums.tiles[sequence + 1] - sums.tiles[sequence];
  }
};

inline constexpr int kWholeTiles = 40;  // about as long as to merge parts takes a thread block

/// Chunks of an item of so many tiles: about chunk_tiles each, but a short item stays whole.
__device__ __forceinline__ int num_chunks(int tiles, int chunk_tiles) {
  if (tiles <= kWholeTiles) return tiles > 0 ? 1 : 0;
  return (tiles + chunk_tiles - 1) / chunk_tiles;
}

/// Tiles of sequence i that its row sees; one thread keeps what it reads of it.
template <bool kWindow>
__device__ __forceinline__ int tiles_of(const DecodeArgs& args, const Sums& sums, int i,
                                        bool keeps) {
  const int keys = args.kv_lengths[i];
  int row = i;
  bool is_one = true;
  if (args.query_starts != nullptr) {
    row = args.query_starts[i];
    is_one = args.query_starts[i + 1] - row == 1;
  }
  if (keeps) sums.sequences[i] = make_int2(row, is_one ? max(keys, 0) : -1);
  return is_one ? (max(keys, 0) + kTileKeys - 1) / kTileKeys - tiles_skipped<kWindow>(args, keys)
                : 0;
}

/// Sizes of chunks to choose from. The last leaves thread blocks little more than equal shares.
struct ChunkChoices {
  static constexpr int kCount = 4;
  int last, blocks;
  int counts[kCount] = {};  // chunks of one head group that there would be

  __device__ __forceinline__ ChunkChoices(int total_tiles, const DecodeArgs& args, int blocks)
      : blocks(blocks) {
    const int share = (total_tiles * args.num_groups + blocks - 1) / blocks;
    last = share + share / 32 + 4;
  }
  __device__ __forceinline__ int tiles(int choice) const {
    return choice == kCount - 1 ? last : 8 * (choice + 1);
  }
  __device__ __forceinline__ void add(int item_tiles) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) counts[c] += num_chunks(item_tiles, tiles(c));
  }
  /// The smallest of which there are not more than thread blocks; 0 if there is none.
  __device__ __forceinline__ int choice(const DecodeArgs& args) const {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      if (counts[c] * args.num_groups <= blocks) return tiles(c);
    }
    return 0;
  }
};

/// How a step is divided.
struct Division {
  int chunk_tiles;  // 0: not by chunks
  // The last of the grid's thread blocks have no tiles. They merge (decode_mergers.cuh).
  int num_mergers;
};
/// Thread blocks that merge, one to a long item. Of more such items, the last block to have a part
/// of one merges it.
__device__ __forceinline__ int mergers_of(int num_long, const DecodeArgs& args) {
  const int most = min(static_cast<int>(gridDim.x) / 16, 8);
  return args.blocks_may_wait && num_long <= most ? num_long : 0;
}

/// Fills `sums`. All threads of the block; ends with a barrier.
template <int kThreads, bool kWindow, bool kHasMergers>
__device__ __forceinline__ Division measure(const Sums& sums, const DecodeArgs& args) {
  const int lane = threadIdx.x % 32, blocks = static_cast<int>(gridDim.x);
  if (args.num_sequences <= 32) {  // every warp for itself; the first one writes
    int tiles = 0;
    if (lane < args.num_sequences) tiles = tiles_of<kWindow>(args, sums, lane, threadIdx.x < 32);
    const auto keep = [&](int value, int32_t* to) {
      if (threadIdx.x < args.num_sequences) to[lane + 1] = value;
      if (threadIdx.x == 0) to[0] = 0;
    };
    const int tiles_before = sum_before(tiles, args.num_sequences);
    keep(tiles_before, sums.tiles);
    const uint32_t present = __ballot_sync(kFullWarp, tiles > 0);
    const uint32_t long_ones = __ballot_sync(kFullWarp, tiles > kWholeTiles);
    const int num_mergers = kHasMergers ? mergers_of(__popc(long_ones) * args.num_groups, args) : 0;
    const bool are_few = __popc(present) * args.num_groups <= blocks - num_mergers;
    int chunk_tiles = 0;
    if (are_few && long_ones == 0) {
      chunk_tiles = kWholeTiles;
      keep(__popc(present & ((2u << lane) - 1)), sums.chunks);
    } else if (are_few) {
      // Lanes behind the last sequence's do not have the sum of all.
      ChunkChoices choices(__shfl_sync(kFullWarp, tiles_before, args.num_sequences - 1), args,
                           blocks - num_mergers);
      choices.add(tiles);
#pragma unroll
      for (int c = 0; c < ChunkChoices::kCount; ++c)
        choices.counts[c] = __reduce_add_sync(kFullWarp, choices.counts[c]);
      chunk_tiles = choices.choice(args);
      if (chunk_tiles > 0)
        keep(sum_before(num_chunks(tiles, chunk_tiles), args.num_sequences), sums.chunks);
    }
    __syncthreads();
    return {chunk_tiles, num_mergers};
  }
  int last = 0;
  add_up<kThreads>(args.num_sequences, sums.tiles,
                   [&](int i) { return last = tiles_of<kWindow>(args, sums, i, true); });
  int num_mergers = 0;
  if (kHasMergers && args.blocks_may_wait && args.num_sequences <= kThreads)
    num_mergers = mergers_of(__syncthreads_count(last > kWholeTiles) * args.num_groups, args);
  // Chunks are for fewer items than thread blocks; a step of more sequences is hardly such.
  if (args.num_sequences * args.num_groups > 2 * blocks) return {0, num_mergers};
  ChunkChoices choices(sums.tiles[args.num_sequences], args, blocks - num_mergers);
  for (int i = threadIdx.x; i < args.num_sequences; i += kThreads) {
    choices.add(sums.tiles[i + 1] - sums.tiles[i]);
  }
  __shared__ int totals[ChunkChoices::kCount];
  if (threadIdx.x < ChunkChoices::kCount) totals[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int c = 0; c < ChunkChoices::kCount; ++c) {
    const int count = __reduce_add_sync(kFullWarp, choices.counts[c]);
    if (lane == 0 && count > 0) atomicAdd(totals + c, count);
  }
  __syncthreads();
#pragma unroll
  for (int c = 0; c < ChunkChoices::kCount; ++c) choices.counts[c] = totals[c];
  const int chunk_tiles = choices.choice(args);
  if (chunk_tiles > 0) {
    add_up<kThreads>(args.num_sequences, sums.chunks, [&](int i) {
      return num_chunks(sums.tiles[i + 1] - sums.tiles[i], chunk_tiles);
    });
  }
  return {chunk_tiles, num_mergers};
}

/// A thread block's part of the step: positions [begin, end).
///
/// A step of few items is divided item by item into equal chunks, one to a thread block. Else each
/// thread block has an equal share, wherever that begins and ends.
struct Work {
  int begin, end;
  int share;                   // positions to each thread block; 0 if divided by chunks
  int first_block, num_parts;  // of the item, if divided by chunks
  Item item;                   // the same
  int num_mergers;

  __device__ __forceinline__ Work(const Sums& sums, const DecodeArgs& args,
                                  const Division& division)
      : num_mergers(division.num_mergers) {
    const int chunk_tiles = division.chunk_tiles;
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    begin = end = share = 0;
    first_block = num_parts = 0;
    if (chunk_tiles > 0) {
      if (block >= sums.chunks[args.num_sequences] * args.num_groups) return;
      const int sequence = find_sequence(sums.chunks, args, block);
      num_parts = sums.chunks[sequence + 1] - sums.chunks[sequence];
      const int tiles = sums.tiles[sequence + 1] - sums.tiles[sequence];
      const int index = block - sums.chunks[sequence] * args.num_groups;
      const int group = num_parts == 1 ? index : index / num_parts;
      const int part = index - group * num_parts;
      const int first = sums.tiles[sequence] * args.num_groups + group * tiles;
      first_block = block - part;
      item = {sequence, group, first, first + tiles};
      begin = num_parts == 1 ? first : first + tiles * part / num_parts;
      end = num_parts == 1 ? first + tiles : first + tiles * (part + 1) / num_parts;
      return;
    }
    const int total = sums.tiles[args.num_sequences] * args.num_groups;
    share = (total + blocks - num_mergers - 1) / (blocks - num_mergers);
    begin = boundary(sums, args, block * share, total);
    end = boundary(sums, args, (block + 1) * share, total);
  }
  /// Of one item alone, of which blocks from `first_block` on have a part each.
  __device__ __forceinline__ Work(const Item& item, int first_block, int num_parts)
      : begin(0),
        end(0),
        share(0),
        first_block(first_block),
        num_parts(num_parts),
        item(item),
        num_mergers(1) {}
  /// The block's number among those that merge; negative: not one of them.
  __device__ __forceinline__ int merger() const {
    return static_cast<int>(blockIdx.x) - static_cast<int>(gridDim.x) + num_mergers;
  }
  /// For a merger: the item whose parts it merges. Whole warps.
  __device__ __forceinline__ void take_merged_item(const Sums& sums, const DecodeArgs& args,
                                                   bool is_by_chunks) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int nth = merger() / args.num_groups;
    const int group = merger() - nth * args.num_groups;
    uint32_t long_ones = 0;
    int first = 0;  // of 32 sequences
    for (;; first += 32) {
      const int i = first + lane;
      long_ones = __ballot_sync(
          kFullWarp, i < args.num_sequences && sums.tiles[i + 1] - sums.tiles[i] > kWholeTiles);
      if (nth < __popc(long_ones)) break;
      nth -= __popc(long_ones);
    }
    for (; nth > 0; --nth) long_ones &= long_ones - 1;
    const int sequence = first + __ffs(static_cast<int>(long_ones)) - 1;
    const int tiles = sums.tiles[sequence + 1] - sums.tiles[sequence];
    const int begin = sums.tiles[sequence] * args.num_groups + group * tiles;
    item = {sequence, group, begin, begin + tiles};
    if (is_by_chunks) {
      num_parts = sums.chunks[sequence + 1] - sums.chunks[sequence];
      first_block = sums.chunks[sequence] * args.num_groups + group * num_parts;
    } else {
      const int2 blocks = blocks_of(item);
      first_block = blocks.x;
      num_parts = blocks.y;
    }
  }
  /// The item at a position of this thread block's.
  __device__ __forceinline__ Item item_at(const Sums& sums, const DecodeArgs& args,
                                          int position) const {
    return share == 0 ? item : Item::at(sums, args, position);
  }
  /// Whether all of `item` is this thread block's.
  __device__ __forceinline__ bool is_whole(const Item& item) const {
    return item.begin >= begin && item.end <= end;
  }
  /// The thread blocks that have parts of `item`: the first and how many.
  __device__ __forceinline__ int2 blocks_of(const Item& item) const {
    if (share == 0) return {first_block, num_parts};
    int first = item.begin / share, last = (item.end - 1) / share;
    if (first == last) return {first, 1};
    while (first < last && rounded((first + 1) * share, item) == item.begin) ++first;
    while (first < last && rounded(last * share, item) == item.end) --last;
    return {first, last - first + 1};
  }

 private:
  // To divide an item costs about as much as to read some tiles: short ones stay whole.
  static constexpr int kShort = 40, kSlack = 2;

  /// The end of the item that `position` is near to, or else `position`.
  static __device__ __forceinline__ int rounded(int position, const Item& item) {
    const int before = position - item.begin, after = item.end - position;
    const int slack = item.end - item.begin <= kShort ? kShort / 2 : kSlack;
    if (before <= slack && before <= after) return item.begin;
    return after <= slack ? item.end : position;
  }
  static __device__ __forceinline__ int boundary(const Sums& sums, const DecodeArgs& args,
                                                 int position, int total) {
    return position >= total ? total : rounded(position, Item::at(sums, args, position));
  }
};

}  // namespace inflight::cuda::decode
