// How the prefill kernels divide a step: a tile is some tokens of one sequence with one kv head,
// the query heads that share it packed into the tile's rows, so that short chunks fill it too. A
// persistent grid finds its tiles itself from query_starts.
#pragma once

#include <cstdint>

#include "kernels/attention/attention_cuda.h"

namespace inflight::cuda {

struct PrefillArgs {
  const void* q;  // [T, kv heads, group, head size]
  const uint8_t* cache;
  void* y;                      // as q
  const int32_t* block_tables;  // [sequences, max_blocks]
  const int32_t* query_starts;
  const int32_t* kv_lengths;
  uint32_t* counters;  // of tiles given out, or of divided ones; zero before and after
  float* partials;     // [max_parts] results of parts of tiles, if these are divided
  int max_parts;
  bool are_claimed;     // whole tiles: by whoever is done first; else dealt by number
  int64_t block_bytes;  // from block to block
  int64_t value_bytes;  // from a key to its value
  int num_sequences;
  int max_blocks;
  int tokens_per_block;
  int num_kv_heads;
  int group;              // query heads to a kv head
  int tile_tokens;        // tokens to a tile: rows of a tile / group
  float scale_log2e;      // of scores that go into exp2
  int window, num_sinks;  // of a kernel with a window
};

PrefillArgs prefill_args(const AttentionParams& params, const OpContext& context, int tile_rows);
/// Tiles of a step are at most so many.
int64_t max_prefill_tiles(const AttentionParams& params, int tile_rows);

struct PrefillTile {
  int sequence;
  int kv_head;
  int first_token;  // in the chunk
  int num_tokens;   // at most tile_tokens
  int first_row;    // of q, of first_token
  int position;     // of first_token in its sequence
  int kv_length;

  /// Keys that the tile's last token sees, and with a window those before it that are not skipped.
  __device__ __forceinline__ int num_keys() const { return position + num_tokens; }
};

inline constexpr int kMaxParts = 16;    // of a tile
inline constexpr int kMinKeyTiles = 3;  // to a part, on average

/// Some keys of a tile. Where tiles are few, several thread blocks share one.
struct PrefillPart {
  PrefillTile tile;  // num_tokens 0: none
  int first_key, end_key;
  int part, num_parts, max_parts;  // of this tile, of any
  int number;                      // of part 0 of the tile
};

#if defined(__CUDACC__)

/// The step's tiles by number: sequence by sequence, in a sequence the longest (its last tokens)
/// first, kv heads innermost. Asked by a whole warp, with rising numbers.
class TileWalk {
 public:
  /// Tiles of the step.
  static __device__ __forceinline__ int count(const PrefillArgs& args) {
    int tiles = 0;
    for (int i = threadIdx.x % 32; i < args.num_sequences; i += 32)
      tiles += tiles_of(args, args.query_starts[i + 1] - args.query_starts[i]);
    return __reduce_add_sync(~0u, tiles);
  }

  __device__ __forceinline__ bool find(const PrefillArgs& args, int number, PrefillTile& tile) {
    constexpr int kEach = 4;  // sequences to a lane: their loads overlap
    const int lane = threadIdx.x % 32;
    while (base_sequence_ < args.num_sequences) {
      int tiles[kEach], own = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int sequence = base_sequence_ + lane * kEach + i;
        int queries = 0;
        if (sequence < args.num_sequences)
          queries = args.query_starts[sequence + 1] - args.query_starts[sequence];
        tiles[i] = tiles_of(args, queries);
        own += tiles[i];
      }
      int until = own;  // tiles of lanes up to this one
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(~0u, until, step);
        if (lane >= step) until += before;
      }
      const int total = __shfl_sync(~0u, until, 31);
      if (number - base_tiles_ < total) {
        const int wanted = number - base_tiles_;
        const int source = __ffs(__ballot_sync(~0u, until > wanted)) - 1;
        int rest = wanted - (until - own), index = 0;
#pragma unroll
        for (int i = 0; i < kEach - 1; ++i) {
          if (index == i && rest >= tiles[i]) rest -= tiles[i], ++index;
        }
        rest = __shfl_sync(~0u, rest, source);
        index = __shfl_sync(~0u, index, source);
        fill(args, base_sequence_ + source * kEach + index, rest, tile);
        return true;
      }
      base_tiles_ += total;
      base_sequence_ += 32 * kEach;
    }
    return false;
  }
  /// Once `find` has said false: tiles of the step.
  __device__ __forceinline__ int num_tiles() const { return base_tiles_; }

 private:
  __device__ __forceinline__ static int tiles_down(const PrefillArgs& args, int queries) {
    return (queries + args.tile_tokens - 1) / args.tile_tokens;
  }
  __device__ __forceinline__ static int tiles_of(const PrefillArgs& args, int queries) {
    return queries >= 2 ? tiles_down(args, queries) * args.num_kv_heads : 0;
  }
  __device__ __forceinline__ static void fill(const PrefillArgs& args, int sequence, int number,
                                              PrefillTile& tile) {
    const int start = args.query_starts[sequence];
    const int queries = args.query_starts[sequence + 1] - start;
    const int index = tiles_down(args, queries) - 1 - number / args.num_kv_heads;
    tile.sequence = sequence;
    tile.kv_head = number % args.num_kv_heads;
    tile.first_token = index * args.tile_tokens;
    tile.num_tokens = min(args.tile_tokens, queries - tile.first_token);
    tile.first_row = start + tile.first_token;
    tile.kv_length = args.kv_lengths[sequence];
    tile.position = tile.kv_length - queries + tile.first_token;
  }

  int base_sequence_ = 0;
  int base_tiles_ = 0;
};

/// Keys in whole tiles with sinks.
template <int kTileKeys>
__device__ __forceinline__ int sink_keys(const PrefillArgs& args) {
  return (args.num_sinks + kTileKeys - 1) / kTileKeys * kTileKeys;
}
/// Skips the tiles of keys that none of the tile's tokens sees, which lie behind those with sinks:
/// from here on its keys are numbered without them, its position and its length too. Returns how
/// many keys that are. Keys from sink_keys() on have numbers so much larger in the cache.
template <int kTileKeys>
__device__ __forceinline__ int skip_keys(const PrefillArgs& args, PrefillTile& tile) {
  const int first = tile.position - args.window + 1;  // key of the first token's window
  const int skipped = max(first / kTileKeys * kTileKeys - sink_keys<kTileKeys>(args), 0);
  tile.position -= skipped, tile.kv_length -= skipped;
  return skipped;
}

/// Into how many parts to divide tiles: where the last round of the grid would leave many thread
/// blocks idle. Asked by a whole warp.
__device__ __forceinline__ int choose_parts(const PrefillArgs& args, int tiles) {
  constexpr int kCost = 10;  // of one more part, in thousandths of a tile
  const int parts = threadIdx.x % 32 + 1, grid = gridDim.x;
  const bool allowed = parts == 1 || (parts <= kMaxParts && tiles * parts <= args.max_parts);
  const unsigned cost = (tiles * parts + grid - 1) / grid * 1000 / parts + kCost * parts;
  return __reduce_min_sync(~0u, allowed ? cost * 32 + parts - 1 : ~0u) % 32 + 1;
}

/// The number of a block's `round`-th tile. Every other round goes backwards: of tiles sorted by
/// length, all blocks get about as much.
__device__ __forceinline__ int snake(int round) {
  const int grid = gridDim.x, block = blockIdx.x;
  return round * grid + (round % 2 == 0 ? block : grid - 1 - block);
}

#endif

}  // namespace inflight::cuda
