// The decode kernel of Hopper: each warp has a ring of tiles in shared memory, which bulk copies
// fill ahead of it, across the borders of sequences (decode.cuh says how work is divided and what
// becomes of parts). Tiles on their way take no registers, so that a few warps, which have few
// parts to merge, keep as many bytes on their way as the memory needs.
#pragma once

#include <cuda.h>

#include "kernels/attention/decode_kernel.cuh"
#include "kernels/core/cuda/async_copy.cuh"

namespace inflight::cuda::decode {

/// A tile in shared memory: two boxes of 8 keys and their values each, as a copy brings them: [2
/// boxes][key, value][pieces of kWidth elements][8 rows][kWidth], swizzled (PTX ISA, "Swizzling
/// modes").
template <int kHeadSize>
struct RingTile {
  static_assert(kHeadSize % 32 == 0);
  static constexpr bool kIsPlain = false;
  static constexpr int kWidth = kHeadSize % 64 == 0 ? 64 : 32;
  static constexpr int kPieces = kHeadSize / kWidth, kRowBytes = 2 * kWidth;
  static constexpr int kBoxKeys = 8, kSideBytes = kBoxKeys * kHeadSize * 2;
  static constexpr int kBoxBytes = 2 * kSideBytes, kBytes = kTileKeys / kBoxKeys * kBoxBytes;

  /// Bytes from a tile's start to an element of a key's row, of its value's with `side` 1.
  static __device__ __forceinline__ int offset_of(int side, int key, int element) {
    const int row = key % kBoxKeys * kRowBytes;
    const int chunk = element % kWidth / 8 ^ row / 128 % (kRowBytes / 16);
    return key / kBoxKeys * kBoxBytes + side * kSideBytes +
           element / kWidth * kBoxKeys * kRowBytes + row + chunk * 16 + element % 8 * 2;
  }
  /// Which key a lane has in the place of Tile's, of 8: such that the 16 bytes of keys, or of
  /// values, that 8 lanes read at a time lie in different banks, but for two and two of the values
  /// of 96.
  static __device__ __forceinline__ int key_at(int place) {
    return kHeadSize == 96 ? place : place ^ (place & 1) << 2;
  }
};

/// Rows whose length keeps them apart in the banks as they are: 16 keys, then their values.
template <>
struct RingTile<80> {
  static constexpr bool kIsPlain = true;
  static constexpr int kRowBytes = 160, kSideBytes = kTileKeys * kRowBytes;
  static constexpr int kBytes = 2 * kSideBytes;

  static __device__ __forceinline__ int offset_of(int side, int key, int element) {
    return side * kSideBytes + key * kRowBytes + element * 2;
  }
  /// Such that neighbours are 2 apart, and those in even places, as those in odd ones, 0 to 3,
  /// modulo 4.
  static __device__ __forceinline__ int key_at(int place) { return place / 2 ^ (place & 1) * 6; }
};

template <int kWords>
__device__ __forceinline__ void load_shared(uint32_t* to, uint32_t from) {
  if constexpr (kWords == 4) {
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  } else if constexpr (kWords == 2) {
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[0]) : "r"(from) : "memory");
  }
}
__device__ __forceinline__ void store_shared(uint32_t to, const uint4& words) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(words.x), "r"(words.y),
               "r"(words.z), "r"(words.w)
               : "memory");
}

using cuda::copy_box_of_five, cuda::copy_bytes;
/// The same of what nobody else reads: with read_once_policy().
__device__ __forceinline__ void copy_box_of_five(uint32_t to, const CUtensorMap& map, int y, int v,
                                                 uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %2, %2, %4}], [%5], %6;" ::"r"(to),
      "l"(&map), "r"(0), "r"(y), "r"(v), "r"(barrier), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void copy_bytes(uint32_t to, const void* from, int bytes,
                                           uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

/// Of head groups of at most 8. What it reads once it keeps out of the L2: sequences may share
/// blocks, one alone has its own.
template <typename T_, int kHeadSize_, int kWarps_, int kStages_, bool kWindow_, bool kAppends_,
          bool kReadsOnce_ = false>
struct RingKernel : DecodeKernel<T_, kHeadSize_, 1, kWarps_, kWindow_, kAppends_> {
  using Base = DecodeKernel<T_, kHeadSize_, 1, kWarps_, kWindow_, kAppends_>;
  using T = T_;
  static constexpr int kHeadSize = kHeadSize_, kWarps = kWarps_, kStages = kStages_;
  static constexpr bool kWindow = kWindow_, kAppends = kAppends_, kReadsOnce = kReadsOnce_;
  static constexpr bool kHasMergers = !kAppends;
  using Place = typename Base::Place;
  using Group = typename Base::Heads;
  using Ring = RingTile<kHeadSize>;
  using Base::args, Base::work, Base::sums;

  static constexpr int kWarpRingBytes = kStages * Ring::kBytes;
  static constexpr int kRingBytes = kWarps * kWarpRingBytes, kAlignment = 1024;
  /// What an item brings besides tiles: cosines and sines, newest key and value, queries.
  static constexpr int kRotationBytes = kAppends ? 4 * kHeadSize : 0;
  static constexpr int kRowBytes = 2 * kHeadSize, kNewestBytes = kAppends ? 2 * kRowBytes : 0;
  static __host__ __device__ __forceinline__ int entry_bytes(int heads) {
    return kRotationBytes + kNewestBytes + heads * kRowBytes;
  }
  static size_t shared_bytes(int num_sequences, int heads) {
    return kAlignment + kRingBytes +
           kWarps * (heads * (part_bytes(kHeadSize) + 8) + entry_bytes(heads)) +
           Sums::bytes(num_sequences);
  }

  const CUtensorMap* map;
  uint32_t ring;      // of this warp, [kStages] tiles; a shared address
  uint32_t barriers;  // of this warp, [kStages] and one of the entry
  uint8_t* entry;     // of this warp

  /// Where a tile lies in the cache: coordinates for `map`, and how many keys there are from it on.
  struct Source {
    int block, row, keys;
  };
  /// Keys of an item's sequence from its tile on; `tile` counts those that are seen.
  __device__ __forceinline__ int2 tile_and_keys(const Item& item, int tile) const {
    const int keys = sums.sequences[item.sequence].y;
    if constexpr (kWindow) {
      if (tile >= args.sink_tiles) tile += tiles_skipped<kWindow>(args, keys);
    }
    return make_int2(tile, keys - tile * kTileKeys);
  }
  __device__ __forceinline__ Source source_of(const Item& item, int index) const {
    const int2 tile = tile_and_keys(item, index);
    const int block = args.tiles_per_block.quotient(tile.x);
    const auto tiles = static_cast<int>(args.tiles_per_block.divisor);
    const int kv_head = args.groups_per_kv_head.quotient(item.group);
    return {args.block_tables[int64_t{item.sequence} * args.max_blocks + block],
            (kv_head * tiles + tile.x - block * tiles) * kTileKeys, tile.y};
  }
  /// Of the lane's position from `first` on, which is behind the last one that was looked up.
  __device__ __forceinline__ Source look_up(Item& ahead, int first, int end) const {
    const int position = min(first + static_cast<int>(threadIdx.x) % 32, end - 1);
    while (position >= ahead.end) ahead.next(sums, args);
    return source_of(ahead, position - ahead.begin);
  }
  /// By one lane. `loaded` is made of what it loaded from there before.
  __device__ __forceinline__ void copy(const Source& source, int stage, uint32_t loaded = 0) const {
    const uint32_t to = behind(ring + stage * Ring::kBytes, loaded, args.zero);
    const uint32_t barrier = barriers + stage * 8;
    const int keys = min(source.keys - (kAppends && source.keys <= kTileKeys), kTileKeys);
    if constexpr (Ring::kIsPlain) {
      const int bytes = keys * Ring::kRowBytes;
      const T* from = static_cast<const T*>(args.cache) + source.block * args.block_stride +
                      source.row * kHeadSize;
      arrive_expecting(barrier, 2 * bytes);
      if constexpr (kReadsOnce) {
        const uint64_t policy = read_once_policy();
        copy_bytes(to, from, bytes, barrier, policy);
        copy_bytes(to + Ring::kSideBytes, from + args.value_offset, bytes, barrier, policy);
      } else {
        copy_bytes(to, from, bytes, barrier);
        copy_bytes(to + Ring::kSideBytes, from + args.value_offset, bytes, barrier);
      }
    } else {
      const int boxes = (keys + Ring::kBoxKeys - 1) / Ring::kBoxKeys;
      arrive_expecting(barrier, boxes * Ring::kBoxBytes);
      for (int i = 0; i < boxes; ++i) {
        const uint32_t box = to + i * Ring::kBoxBytes;
        const int row = source.row + i * Ring::kBoxKeys;
        if constexpr (kReadsOnce) {
          copy_box_of_five(box, *map, row, source.block, barrier, read_once_policy());
        } else {
          copy_box_of_five(box, *map, row, source.block, barrier);
        }
      }
    }
  }

  /// Asks for an item's queries and, of a kernel that appends, its newest key and value. By one
  /// lane, behind wait_for_previous(). `loaded` is made of what it loaded of the item before.
  __device__ __forceinline__ void fetch(const Item& item, uint32_t loaded = 0) const {
    const Place place = Base::place_of(item);
    const uint32_t barrier = barriers + kStages * 8;
    arrive_expecting(barrier, entry_bytes(place.num_heads));
    uint32_t to = behind(shared_address(entry), loaded, args.zero);
    const auto bring = [&](const void* from, int bytes) {
      copy_bytes(to, from, bytes, barrier);
      to += bytes;
    };
    if constexpr (kAppends) {
      bring(args.cos_sin + int64_t{place.row} * kHeadSize, kRotationBytes);
      const T* key = Base::newest_of(item);
      bring(key, kRowBytes);
      bring(key + int64_t{args.num_kv_heads} * kHeadSize, kRowBytes);
    }
    bring(static_cast<const T*>(args.q) + place.queries, place.num_heads * kRowBytes);
  }

  /// The row of an item's sequence itself: its key, rotated, and its value, 16 bytes to a lane.
  static constexpr int kChunks = kHeadSize / 8;
  struct Newest {
    uint4 words;
    T* place;  // in the cache, of these words; null: not to be put there
  };
  /// Takes queries and the newest row over.
  __device__ __forceinline__ void start(Group& group, Newest& newest, const Item& item,
                                        const Place& place, int entry_parity) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    wait(barriers + kStages * 8, entry_parity);
    const uint32_t queries = shared_address(entry) + kRotationBytes + kNewestBytes;
    group.start([&](auto words, uint32_t* to, int head, int offset) {
      if (head < place.num_heads)
        load_shared<words.value>(to, queries + head * kRowBytes + offset * 2);
    });
    if constexpr (kAppends) {
      static_assert(2 * kChunks <= 32);
      const auto* rotation = reinterpret_cast<const float*>(entry);
      rotate<T, kHeadSize>(group.queries, rotation);
      const int side = lane / kChunks, element = lane % kChunks * 8;
      newest.words = uint4{};
      if (side < 2)
        newest.words = *reinterpret_cast<const uint4*>(entry + kRotationBytes + lane * 16);
      const bool is_high = element >= kHeadSize / 2;
      const float* cosines = rotation + element % (kHeadSize / 2);
      uint32_t words[4] = {newest.words.x, newest.words.y, newest.words.z, newest.words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 own = unpack(T(), words[i]);
        const float2 other = unpack(T(), __shfl_xor_sync(kFullWarp, words[i], kChunks / 2));
        const float2 cosine = *reinterpret_cast<const float2*>(cosines + 2 * i);
        const float2 sine = *reinterpret_cast<const float2*>(cosines + kHeadSize / 2 + 2 * i);
        const float sign = is_high ? 1.0f : -1.0f;
        const uint32_t rotated = pack(T(), own.x * cosine.x + sign * other.x * sine.x,
                                      own.y * cosine.y + sign * other.y * sine.y);
        if (side == 0) words[i] = rotated;
      }
      newest.words = {words[0], words[1], words[2], words[3]};
      newest.place = nullptr;
      const int kv_head = args.groups_per_kv_head.quotient(item.group);
      const auto groups = static_cast<int>(args.groups_per_kv_head.divisor);
      if (side < 2 && kv_head * groups == item.group) {
        const int last = sums.sequences[item.sequence].y - 1;
        const int index = args.tiles_per_block.quotient(last / kTileKeys);
        const int tokens = static_cast<int>(args.tiles_per_block.divisor) * kTileKeys;
        const int block = args.block_tables[int64_t{item.sequence} * args.max_blocks + index];
        newest.place = static_cast<T*>(const_cast<void*>(args.cache)) + block * args.block_stride +
                       side * args.value_offset + ((kv_head - index) * tokens + last) * kHeadSize +
                       element;
      }
    }
  }
  /// Puts the newest row into its place in the item's last tile of `valid` keys, of which a copy
  /// brought what the cache had, and zeros into the values behind it. Appends it to the cache.
  __device__ __forceinline__ void complete(uint32_t tile, const Newest& newest, int valid) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if constexpr (kAppends) {
      const int side = lane / kChunks;
      if (side < 2)
        store_shared(tile + Ring::offset_of(side, valid - 1, lane % kChunks * 8), newest.words);
      if (newest.place != nullptr) *reinterpret_cast<uint4*>(newest.place) = newest.words;
    }
    for (int i = lane; i < (kTileKeys - valid) * kChunks; i += 32)
      store_shared(tile + Ring::offset_of(1, valid + i / kChunks, i % kChunks * 8), uint4{});
    fence_shared();
    __syncwarp();
  }

  __device__ __forceinline__ void read_keys(Tile<T, kHeadSize>& tile, uint32_t from) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = Ring::key_at(threadIdx.x % 32 / 4) + i * 8;
      for_pieces<kHeadSize, 4>(threadIdx.x % 4, [&](auto words, int at, int offset) {
        load_shared<words.value>(tile.keys[i] + at, from + Ring::offset_of(0, key, offset));
      });
    }
  }
  __device__ __forceinline__ void read_values(Tile<T, kHeadSize>& tile, uint32_t from) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = Ring::key_at(threadIdx.x % 4 * 2 + i % 2) + i / 2 * 8;
      for_pieces<kHeadSize, 8>(threadIdx.x % 32 / 4, [&](auto words, int at, int offset) {
        load_shared<words.value>(tile.values[i] + at, from + Ring::offset_of(1, key, offset));
      });
    }
  }

  /// Made of one of the words of each load of values; keys the products have taken before.
  static __device__ __forceinline__ uint32_t loaded_of(const Tile<T, kHeadSize>& tile) {
    uint32_t loaded = 0;
#pragma unroll
    for (const auto& words : tile.values) {
#pragma unroll
      for (int i = 0; i < kHeadSize / 16; i += 4) loaded |= words[i];
    }
    return loaded;
  }

  /// Before this block's parts may be told. Whole warps.
  __device__ __forceinline__ void wait_for_mergers() const {
    if constexpr (kHasMergers) {
      if (work.num_mergers == 0 || threadIdx.x >= 32) return;
#pragma unroll 1
      for (int i = 0; i < 2; ++i) {  // at most one item began before, and one goes on
        const Item item = work.item_at(sums, args, i == 0 ? work.begin : work.end - 1);
        if (work.is_whole(item)) continue;
        if (threadIdx.x == 0) wait_until_set(args.counters + work.blocks_of(item).x);
      }
      __syncwarp();
    }
  }

  /// Positions [begin, end) by one warp.
  __device__ __forceinline__ void run(int begin, int end) const {
    const auto wait_for_rows = [] {
      wait_for_previous();
      fence_global();
    };
    if (args.is_cache_new) wait_for_rows();
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    Item at = work.item_at(sums, args, begin), ahead = at;
    Source source = look_up(ahead, begin, end);
    // A tile with a row of this step is there behind the wait, or put together by complete().
    const bool is_first = lane < min(kStages, end - begin);
    const bool is_early = kAppends || source.keys > kTileKeys;
    if (is_first && is_early) copy(source, lane);
    Source later = look_up(ahead, begin + 32, end);
    wait_for_rows();
    if (lane == 0) fetch(at);
    if (is_first && !is_early) copy(source, lane);

    Place place = Base::place_of(at);
    Item following = at;
    Group group;
    Newest newest;
    int entry_parity = 0;
    const auto start_item = [&] {
      start(group, newest, at, place, entry_parity);
      entry_parity ^= 1;
      __syncwarp();
      if (at.end >= end) return;
      following.next(sums, args);
      const uint4 words = newest.words;
      uint32_t loaded = kAppends ? words.x | words.y | words.z | words.w : 0;
#pragma unroll
      for (const uint32_t word : group.queries[0]) loaded |= word;
      if (lane == 0) fetch(following, loaded);
    };
    start_item();

    if (begin + kStages >= end) wait_for_mergers();
    int stage = 0, parity = 0, next = begin + kStages;
#pragma unroll 1
    for (int position = begin;;) {
      const int stop = min(at.end, end);
#pragma unroll 1
      for (; position < stop; ++position) {
        const uint32_t from = ring + stage * Ring::kBytes;
        const int valid = tile_and_keys(at, position - at.begin).y;
        wait(barriers + stage * 8, parity);
        if (valid <= kTileKeys) complete(from, newest, valid);
        Tile<T, kHeadSize> tile;
        read_keys(tile, from);
        typename Group::Scores scores;
        group.score(tile, scores);
        read_values(tile, from);
        const uint32_t loaded = loaded_of(tile);
        __syncwarp();
        if (next < end) {
          const int index = (next - begin) % 32;
          if (index == 0) {
            source = later;
            later = look_up(ahead, next + 32, end);
          }
          if (lane == index) copy(source, stage, loaded);
          if (++next == end) wait_for_mergers();
        }
        typename Group::Weights weights;
        const auto is_seen = [&](int row) {
          const int key = Ring::key_at(row % 8) + row / 8 * 8;
          if constexpr (!kWindow) return key < valid;
          // Both ends count from the tile's first key: its sequence's row has number `valid` - 1.
          const int sinks = args.num_sinks + valid - sums.sequences[at.sequence].y;
          return key < valid && (key >= valid - args.window || key < sinks);
        };
        group.weigh(scores, is_seen, args.scale, weights);
        group.accumulate(tile, weights);
        if (++stage == kStages) {
          stage = 0;
          parity ^= 1;
        }
      }
      Base::finish(group, at, warp, begin, end, place);
      if (stop == end) return;
      at = following;
      place = Base::place_of(at);
      start_item();
    }
  }
};

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    ring_kernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ CUtensorMap map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / 32, heads = args.heads_per_group;
  const uint32_t base = shared_address(shared);
  auto* rings = shared + (Kernel::kAlignment - base % Kernel::kAlignment) % Kernel::kAlignment;
  auto* part_outputs = reinterpret_cast<float*>(rings + Kernel::kRingBytes);
  uint8_t* entries =
      reinterpret_cast<uint8_t*>(part_outputs + Kernel::kWarps * heads * Kernel::kPartPitch);
  auto* part_states =
      reinterpret_cast<float2*>(entries + Kernel::kWarps * Kernel::entry_bytes(heads));
  auto* tiles = reinterpret_cast<int32_t*>(part_states + 2 * Kernel::kWarps * heads);
  __shared__ Parted parted[1 + Kernel::kWarps];
  __shared__ uint64_t barriers[Kernel::kWarps * (Kernel::kStages + 1)];
  const uint32_t own_barriers = shared_address(barriers + warp * (Kernel::kStages + 1));
  if (!Kernel::Ring::kIsPlain && threadIdx.x == 0) prefetch_map(map);
  if (threadIdx.x % 32 == 0) {
    for (int i = 0; i <= Kernel::kStages; ++i) init_barrier(own_barriers + i * 8, 1);
    publish_barriers();
  }
  const int num_sums = args.num_sequences + 1;
  const Sums sums = {tiles + 2 * num_sums, tiles + 3 * num_sums, reinterpret_cast<int2*>(tiles)};
  if (threadIdx.x <= Kernel::kWarps) parted[threadIdx.x].num_parts = 0;

  const Division division =
      measure<Kernel::kThreads, Kernel::kWindow, Kernel::kHasMergers>(sums, args);
  Work work(sums, args, division);
  if (work.begin < work.end) {
    const int share = (work.end - work.begin + Kernel::kWarps - 1) / Kernel::kWarps;
    const int begin = work.begin + warp * share, end = min(begin + share, work.end);
    const Kernel kernel{{args, work, sums, part_outputs, reinterpret_cast<float*>(rings),
                         Kernel::kWarpRingBytes / 4, part_states, parted, share},
                        &map,
                        shared_address(rings) + warp * Kernel::kWarpRingBytes,
                        own_barriers,
                        entries + warp * Kernel::entry_bytes(heads)};
    if (begin < end) {
      kernel.run(begin, end);
    } else {
      wait_for_previous();
    }
    kernel.merge_warps();
    if (!Kernel::kHasMergers || work.num_mergers == 0) kernel.merge_blocks();
  } else if (Kernel::kHasMergers && work.merger() >= 0) {
    work.take_merged_item(sums, args, division.chunk_tiles > 0);
    const Kernel kernel{
        {args, work, sums, part_outputs, nullptr, 0, part_states, parted, 0}, &map, 0, 0, nullptr};
    kernel.merge_as_they_come();
  } else if (blockIdx.x == 0) {
    wait_for_previous();  // this kernel must not be done before the ones before it
  }
  write_empty_rows<typename Kernel::T, Kernel::kHeadSize>(args, sums);
#else
  __trap();  // chosen on 9.0 only
#endif
}

}  // namespace inflight::cuda::decode
