// The sm_90a kernel's shared memory, and the warp that fills it.
#pragma once

#include <type_traits>

#include "kernels/attention/prefill_tiles.cuh"
#include "kernels/attention/prefill_wgmma.h"
#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"

namespace inflight::cuda::wgmma {

/// Where in a ring of stages a warp is.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

/// What consumers know of the tile they are at: all of it, ...
class WholePart {
 public:
  __device__ __forceinline__ void take(const PrefillPart& part) { kept_.tile = part.tile; }
  __device__ __forceinline__ const PrefillTile& tile() const { return kept_.tile; }
  __device__ __forceinline__ static constexpr int first_key() { return 0; }
  __device__ __forceinline__ int end_key() const { return kept_.tile.num_keys(); }
  __device__ __forceinline__ auto copy() const { return kept_; }

 private:
  struct {
    PrefillTile tile;
  } kept_;
};
/// ... or where it stands, for a part is more than registers hold.
class DividedPart {
 public:
  __device__ __forceinline__ void take(const PrefillPart& part) { part_ = &part; }
  __device__ __forceinline__ const PrefillTile& tile() const { return part_->tile; }
  __device__ __forceinline__ int first_key() const { return part_->first_key; }
  __device__ __forceinline__ int end_key() const { return part_->end_key; }
  __device__ __forceinline__ PrefillPart copy() const { return *part_; }

 private:
  const PrefillPart* part_;
};

/// Stages of queries, keys and values, and the barriers that say who may touch them. Whether tiles
/// can be divided is known when compiled: it costs whole ones 5 to 10 %. So is whether there is a
/// window, for which others have nothing to do.
template <int kHeadSize, bool kDivided, bool kWindow>
struct Pipeline {
  using Part = std::conditional_t<kDivided, DividedPart, WholePart>;
  using Shape = PrefillShape<kHeadSize>;
  static constexpr int kWarpgroups = Shape::kWarpgroups, kTileKeys = Shape::kTileKeys;
  static constexpr int kStages = Shape::kStages, kQueryStages = Shape::kQueryStages;
  static constexpr int kPartStages =
      kQueryStages + kDivided;  // these outlive their queries by a tile
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kColumns =
      (kHeadSize + 63) / 64;                        // of 128 bytes, the last filled up with zeros
  static constexpr int kQueryColumn = kRows * 128;  // bytes
  static constexpr int kKeyColumn = kTileKeys * 128;
  static constexpr int kQueryBytes = kQueryColumn * kColumns;
  static constexpr int kKeyBytes = kKeyColumn * kColumns;

  struct Shared {
    uint64_t query_full[kQueryStages], query_empty[kQueryStages];
    uint64_t key_full[kStages], key_empty[kStages], value_full[kStages], value_empty[kStages];
    PrefillPart parts[kPartStages];
    int is_last[kWarpgroups];  // to finish its part of a tile
  };
  // Data first, for its alignment.
  static constexpr int kDataBytes = kQueryStages * kQueryBytes + 2 * kStages * kKeyBytes;
  static_assert(sizeof(Shared) <= 1024);

  uint32_t queries, keys, values;  // shared addresses
  Shared* shared;

  __device__ __forceinline__ explicit Pipeline(uint8_t* memory) {
    const uint32_t base = shared_address(memory), aligned = (base + 1023) & ~1023u;
    queries = aligned;
    keys = queries + kQueryStages * kQueryBytes;
    values = keys + kStages * kKeyBytes;
    shared = reinterpret_cast<Shared*>(memory + (aligned - base) + kDataBytes);
  }
  static __device__ __forceinline__ uint32_t at(const uint64_t& barrier) {
    return shared_address(&barrier);
  }

  __device__ __forceinline__ void init() {
    const int consumer_warps = 4 * kWarpgroups;
    for (int i = 0; i < kQueryStages; ++i) {
      init_barrier(at(shared->query_full[i]), 1);
      init_barrier(at(shared->query_empty[i]), consumer_warps);
    }
    for (int i = 0; i < kStages; ++i) {
      init_barrier(at(shared->key_full[i]), 1);
      init_barrier(at(shared->key_empty[i]), consumer_warps);
      init_barrier(at(shared->value_full[i]), 1);
      init_barrier(at(shared->value_empty[i]), consumer_warps);
    }
    publish_barriers();
  }

  /// One tile of keys or values; a lane brings a block. Blocks that no row sees come as zeros.
  __device__ __forceinline__ void copy_keys(const PrefillMaps& maps, uint32_t to, uint64_t& full,
                                            uint64_t& empty, uint32_t parity, int lane, int copies,
                                            int keys_each, int row, int block) {
    wait(at(empty), parity ^ 1);
    if (lane == 0) arrive_expecting(at(full), kKeyBytes);
    __syncwarp();
    if (lane < copies) {
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        copy_box(to + column * kKeyColumn + lane * keys_each * 128, maps.cache, column * 64, row,
                 block, at(full));
      }
    }
    __syncwarp();
  }

  /// A thread block's tiles or, divided, parts of tiles of about as much work as any other's.
  class Parts {
   public:
    __device__ __forceinline__ explicit Parts(const PrefillArgs& args)
        : args_(args), max_each_(kDivided ? choose_parts(args, TileWalk::count(args)) : 1) {}

    /// False: no more. `skipped_keys`: as skip_keys says of the part's tile.
    __device__ __forceinline__ bool next(PrefillPart& part, int& skipped_keys) {
      while (true) {
        const int number = !kDivided && args_.are_claimed ? claim() : snake(round_++);
        if (!walk_.find(args_, number / max_each_, part.tile)) {
          if (!kDivided && args_.are_claimed) clear(number);
          break;
        }
        if constexpr (kWindow) skipped_keys = skip_keys<kTileKeys>(args_, part.tile);
        const int num_keys = part.tile.num_keys();
        if constexpr (!kDivided) {
          part.first_key = 0, part.end_key = num_keys;
          return true;
        }
        const int key_tiles = (num_keys + kTileKeys - 1) / kTileKeys;
        part.part = number % max_each_;
        part.num_parts = min(max_each_, max(1, key_tiles / kMinKeyTiles));
        if (part.part >= part.num_parts) continue;
        part.first_key = key_tiles * part.part / part.num_parts * kTileKeys;
        part.end_key = min(num_keys, key_tiles * (part.part + 1) / part.num_parts * kTileKeys);
        part.number = number - part.part;
        part.max_parts = max_each_;
        return true;
      }
      part.tile.num_tokens = 0;
      return false;
    }

   private:
    /// Whole tiles of several sequences come in no order of length: who is done takes the next one.
    __device__ __forceinline__ int claim() {
      if (round_++ == 0) return static_cast<int>(blockIdx.x);
      unsigned claimed = 0;
      if (threadIdx.x % 32 == 0) claimed = atomicAdd(args_.counters, 1u);
      return static_cast<int>(gridDim.x + __shfl_sync(~0u, claimed, 0));
    }
    /// Who had a first tile asks once in vain: as often as there are tiles somebody has asked.
    __device__ __forceinline__ void clear(int number) {
      const bool is_last = number - static_cast<int>(gridDim.x) == walk_.num_tiles() - 1;
      if (round_ > 1 && is_last && threadIdx.x % 32 == 0) *args_.counters = 0;
    }

    const PrefillArgs& args_;
    TileWalk walk_;
    int max_each_;
    int round_ = 0;
  };

  __device__ __forceinline__ void produce(const PrefillArgs& args, const PrefillMaps& maps) {
    const int lane = threadIdx.x % 32;
    const int tokens_per_block = args.tokens_per_block;
    const int copies = tokens_per_block >= kTileKeys ? 1 : kTileKeys / tokens_per_block;
    const int keys_each = kTileKeys / copies;
    Ring<kQueryStages> query_ring;
    Ring<kPartStages> part_ring;
    Ring<kStages> key_ring, value_ring;
    Parts parts(args);
    PrefillPart next;
    int next_skipped_keys = 0;
    bool found = parts.next(next, next_skipped_keys);
    wait_for_previous();
    while (true) {
      const PrefillTile tile = next.tile;
      const int first_key = next.first_key, end_key = next.end_key;
      const int skipped_keys = next_skipped_keys;
      wait(at(shared->query_empty[query_ring.stage]), query_ring.parity ^ 1);
      const uint32_t full = at(shared->query_full[query_ring.stage]);
      if (lane == 0) {
        shared->parts[part_ring.stage] = next;
        if (found) {
          arrive_expecting(full, args.tile_tokens * args.group * (kColumns * 128));
#pragma unroll
          for (int column = 0; column < kColumns; ++column) {
            copy_box(queries + query_ring.stage * kQueryBytes + column * kQueryColumn, maps.q,
                     column * 64, tile.kv_head * args.group, tile.first_row, full);
          }
        } else {
          arrive(full);
        }
      }
      if (!found) break;
      query_ring.advance();
      part_ring.advance();

      const int32_t* table =
          args.block_tables + static_cast<int64_t>(tile.sequence) * args.max_blocks;
      const int key_row = tile.kv_head * tokens_per_block;
      const int value_row = (args.num_kv_heads + tile.kv_head) * tokens_per_block;
      int last_block = 0, last_slot = 0;
      for (int begin = first_key;; begin += kTileKeys) {
        int block = -1, slot = 0;
        if (begin < end_key) {
          const int key = begin + lane * keys_each;
          int place = key;
          bool is_hidden = false;
          if constexpr (kWindow) {
            if (key >= sink_keys<kTileKeys>(args)) place += skipped_keys;
            is_hidden = key + keys_each <= tile.position - args.window + 1 && key >= args.num_sinks;
          }
          const int index = static_cast<unsigned>(place) / static_cast<unsigned>(tokens_per_block);
          if (lane < copies && key < end_key && !is_hidden) block = table[index];
          slot = place - index * tokens_per_block;
          copy_keys(maps, keys + key_ring.stage * kKeyBytes, shared->key_full[key_ring.stage],
                    shared->key_empty[key_ring.stage], key_ring.parity, lane, copies, keys_each,
                    key_row + slot, block);
          key_ring.advance();
        }
        if (begin > first_key) {
          copy_keys(maps, values + value_ring.stage * kKeyBytes,
                    shared->value_full[value_ring.stage], shared->value_empty[value_ring.stage],
                    value_ring.parity, lane, copies, keys_each, value_row + last_slot, last_block);
          value_ring.advance();
        } else {
          found = parts.next(next, next_skipped_keys);
        }
        if (begin >= end_key) break;
        last_block = block, last_slot = slot;
      }
    }
  }
};

}  // namespace inflight::cuda::wgmma
