// 65 to some hundred rows of x on Hopper, where a product turns from reading weights to multiplying
// them. Tiles of 128 rows of x and kColumns rows of weights; a cluster's blocks share
// what is the same for them: neighbours in rows the weights, neighbours in columns x, each copying
// its part into the memory of all. The depth may be split over a cluster, too; its blocks then send
// each other their sums, thread to thread, and each finishes a part of the tile in a fixed order.
//
// One warp copies through a ring, which it fills with weights before the kernel before is done; two
// warpgroups multiply 64 rows of x each. Few enough registers that a small kernel fits beside.
#pragma once

#include <algorithm>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/mma.cuh"
#include "kernels/gemm/gate.cuh"
#include "kernels/gemm/many_rows.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda::medium {

inline constexpr int kTileRows = 128;
inline constexpr int kDepth = 64;  // elements of a step: the swizzle's width
inline constexpr int kConsumers = 256, kThreads = kConsumers + 32;
inline constexpr int kGroup = 8;
inline constexpr int kXBytes = kTileRows * kDepth * 2;
inline constexpr int kPanel = 64;  // columns of y that pass through shared memory at a time
inline constexpr int kPitch = kPanel * 2 + 16;  // bytes of its rows: no bank twice
inline constexpr int kPanelBytes = kTileRows * kPitch;
inline constexpr int kMostShared = (227 << 10) - 1024;  // static barriers' share kept

template <int kColumns>
inline constexpr int kStageBytes = kXBytes + kColumns * kDepth * 2;
template <int kColumns>
inline constexpr int kStages = (kMostShared - kPanelBytes - 1024) / kStageBytes<kColumns>;
template <int kColumns>
inline constexpr int kSharedBytes = kStages<kColumns> * kStageBytes<kColumns> + kPanelBytes + 1024;

struct MediumArgs {
  void* y;               // [rows, columns]
  const void* residual;  // as y, or null
  int rows, columns;     // of y
  int second;            // a tile's second half of weight rows begins so many after its first
  int steps;             // of depth
  int tile_rows;         // of x that are there for a tile of kTileRows at most
  int x_rows;            // of them, that each of the blocks copies which share x
  TileGrid tiles;        // of a cluster
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Stores what a warp holds of y: 16 rows, or those of them before `end`, and kCount columns for
/// which word(i) gives pairs as wgmma lays them out, i = 4 * (8 columns) + 2 * (lower half of the
/// rows).
template <typename T, int kCount, typename Word>
__device__ __forceinline__ void store_warp(uint8_t* panel, const MediumArgs& args, int row, int end,
                                           int column, const Word& word) {
  const int lane = threadIdx.x % 32;
  const uint32_t to =
      shared_address(panel) + (lane / 8 % 2 * 8 + lane % 8) * kPitch + lane / 16 * 16;
#pragma unroll
  for (int from = 0; from < kCount; from += kPanel) {
    const int blocks = (kCount - from < kPanel ? kCount - from : kPanel) / 8;
    __syncwarp();
#pragma unroll
    for (int block = 0; block < blocks; block += 2) {
      uint32_t words[4] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (block + i / 2 < blocks) words[i] = word((from / 8 + block) * 4 + i * 2);
      store_matrices(to + block * 16, words);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < (blocks + 1) / 2; ++i) {
      const int at = i * 32 + lane, r = at / blocks, block = at % blocks;
      const int y_row = row + r, y_column = column + from + block * 8;
      if (r >= 16 || y_row >= end || y_column >= args.columns) continue;
      uint4 value = *reinterpret_cast<const uint4*>(panel + r * kPitch + block * 16);
      const int64_t offset = (int64_t{y_row} * args.columns + y_column) * 2;
      if (args.residual != nullptr) {
        const auto* residual = static_cast<const uint8_t*>(args.residual) + offset;
        const uint4 other = *reinterpret_cast<const uint4*>(residual);
        const auto add = [](uint32_t& pair, uint32_t what) {
          const float2 a = unpack(T(), pair), b = unpack(T(), what);
          pair = pack(T(), a.x + b.x, a.y + b.y);
        };
        add(value.x, other.x), add(value.y, other.y);
        add(value.z, other.z), add(value.w, other.w);
      }
      *reinterpret_cast<uint4*>(static_cast<uint8_t*>(args.y) + offset) = value;
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// Grid: clusters of kRowBlocks * kColumnBlocks * kSplit blocks, neighbours in rows innermost.
/// Where the depth is split a cluster has one tile.
template <typename T, int kColumns, int kRowBlocks, int kColumnBlocks, int kSplit, bool kGated>
__global__ void __launch_bounds__(kThreads, 1)
    medium_kernel(const __grid_constant__ CUtensorMap x,
                  const __grid_constant__ CUtensorMap weights, const MediumArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static_assert(!kGated || kSplit == 1);
  constexpr int kCopiers = kRowBlocks * kColumnBlocks, kCluster = kCopiers * kSplit;
  constexpr int kPeers = kRowBlocks + kColumnBlocks - 1;
  constexpr int kWidth = kGated ? kColumns / 2 : kColumns;  // of a tile of y
  constexpr int kStage = kStageBytes<kColumns>, kNumStages = kStages<kColumns>;
  constexpr int kHalfBytes = kColumns / 2 * kDepth * 2;
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t full[kNumStages], empty[kNumStages];

  const int rank = static_cast<int>(blockIdx.x) % kCluster, part = rank / kCopiers;
  const int row_block = rank % kRowBlocks, column_block = rank / kRowBlocks % kColumnBlocks;
  const int first = static_cast<int>(blockIdx.x) / kCluster;
  const int stride = static_cast<int>(gridDim.x) / kCluster;
  const int begin = args.steps * part / kSplit;
  const int count = args.steps * (part + 1) / kSplit - begin;
  const int num_tiles = args.tiles.down * args.tiles.across;
  struct Place {
    int row, column;  // of y
  };
  const auto place = [&](int tile) {
    const TilePlace at = place_of(args.tiles, tile);
    return Place{(at.down * kRowBlocks + row_block) * args.tile_rows,
                 (at.across * kColumnBlocks + column_block) * kWidth};
  };

  if (threadIdx.x == 0) {
    prefetch_map(x);
    prefetch_map(weights);
    for (int i = 0; i < kNumStages; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&empty[i], kPeers * (kConsumers / 32));
    }
    publish_barriers();
  }
  __syncthreads();
  if constexpr (kPeers > 1) cluster_barrier();
  let_next_start();

  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x == kConsumers) {
      const auto copy_x = [&](const Place& at, int step, int stage) {
        uint8_t* to = shared + stage * kStage;
        if constexpr (kColumnBlocks == 1) {
          copy_tile(to, x, (begin + step) * kDepth, at.row, &full[stage]);
        } else {
          uint32_t mask = 0;
#pragma unroll
          for (int i = 0; i < kColumnBlocks; ++i) mask |= 1u << (i * kRowBlocks);
          const int first_row = column_block * args.x_rows;
          copy_tile_to_all(to + first_row * (kDepth * 2), x, (begin + step) * kDepth,
                           at.row + first_row, &full[stage],
                           static_cast<uint16_t>(mask << (part * kCopiers + row_block)));
        }
      };
      const auto copy_weights = [&](const Place& at, int step, int stage) {
        uint8_t* to = shared + stage * kStage + kXBytes;
        arrive_expecting(&full[stage],
                         kStage - kXBytes + kColumnBlocks * args.x_rows * (kDepth * 2));
        if constexpr (kRowBlocks == 1) {
          copy_tile(to, weights, (begin + step) * kDepth, at.column, &full[stage]);
          copy_tile(to + kHalfBytes, weights, (begin + step) * kDepth, args.second + at.column,
                    &full[stage]);
        } else {
          static_assert(kRowBlocks == 2);
          const uint32_t mask = 3u << (part * kCopiers + column_block * kRowBlocks);
          copy_tile_to_all(to + row_block * kHalfBytes, weights, (begin + step) * kDepth,
                           row_block * args.second + at.column, &full[stage],
                           static_cast<uint16_t>(mask));
        }
      };
      const int ahead = min(kNumStages, count);
      {
        const Place at = place(first);
        for (int step = 0; step < ahead; ++step) copy_weights(at, step, step);
        wait_for_previous();
        for (int step = 0; step < ahead; ++step) copy_x(at, step, step);
      }
      int stage = ahead == kNumStages ? 0 : ahead;
      uint32_t parity = ahead == kNumStages ? 0 : 1;
      for (int tile = first; tile < num_tiles; tile += stride) {
        const Place at = place(tile);
        for (int step = tile == first ? ahead : 0; step < count; ++step) {
          wait(&empty[stage], parity);
          copy_weights(at, step, stage);
          copy_x(at, step, stage);
          if (++stage == kNumStages) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
    if constexpr (kSplit > 1) {
      cluster_barrier();
      cluster_barrier();
    }
  } else {
    // Shuffled, the compiler knows it as the same for a warp.
    const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    StageRing<kNumStages, kStage, kXBytes> ring{full, shared_address(shared)};
    float sums[kColumns / 2];
    // The blocks that copy into this one: those beside it in rows, then the others in columns.
    const int others = lane - kRowBlocks;
    const int peer =
        part * kCopiers + (lane < kRowBlocks
                               ? column_block * kRowBlocks + lane
                               : (others + (others >= column_block)) * kRowBlocks + row_block);
    const auto release = [&](int which) {
      if constexpr (kPeers == 1) {
        if (lane == 0) arrive(&empty[which]);
      } else {
        if (lane < kPeers) arrive_at(&empty[which], peer);
      }
    };
    for (int tile = first; tile < num_tiles; tile += stride) {
      ring.template multiply_all<T>(sums, count, warpgroup * (64 * kDepth * 2), release);

      uint8_t* panel = shared + kNumStages * kStage + warp * 16 * kPitch;
      const Place tile_at = place(tile);
      const int row = tile_at.row + warp * 16, column = tile_at.column;
      const int end = min(tile_at.row + args.tile_rows, args.rows);
      if constexpr (kGated) {
        store_warp<T, kWidth>(panel, args, row, end, column, [&](int i) {
          return gated<T>(sums[i], sums[i + 1], sums[kWidth / 2 + i], sums[kWidth / 2 + i + 1]);
        });
      } else if constexpr (kSplit == 1) {
        store_warp<T, kWidth>(panel, args, row, end, column,
                              [&](int i) { return pack(T(), sums[i], sums[i + 1]); });
      } else {
        // A block finishes a piece of one warpgroup's columns: the other blocks send it theirs,
        // [sender][four sums][thread], into the ring that all of the cluster have done with.
        constexpr int kPieces = kSplit / 2, kPiece = kColumns / 2 / kPieces;
        const int thread = static_cast<int>(threadIdx.x) % 128;
        cluster_barrier();
#pragma unroll
        for (int q = 0; q < kPieces; ++q) {
          const int owner = warpgroup * kPieces + q;
          if (owner == part) continue;
          const int sender = part - (part > owner);
          const uint32_t to =
              remote_address(ring.base + (sender * (kPiece / 4) * 128 + thread) * 16,
                             owner * kCopiers + rank % kCopiers);
#pragma unroll
          for (int i = 0; i < kPiece / 4; ++i)
            store_remote_four(to + i * 128 * 16, &sums[q * kPiece + 4 * i]);
        }
        cluster_barrier();
#pragma unroll
        for (int q = 0; q < kPieces; ++q) {
          if (warpgroup * kPieces + q != part) continue;
#pragma unroll
          for (int sender = 0; sender < kSplit - 1; ++sender) {
            const float4* from =
                reinterpret_cast<const float4*>(shared) + sender * (kPiece / 4) * 128 + thread;
#pragma unroll
            for (int i = 0; i < kPiece / 4; ++i) {
              const float4 four = from[i * 128];
              float* to = &sums[q * kPiece + 4 * i];
              to[0] += four.x, to[1] += four.y, to[2] += four.z, to[3] += four.w;
            }
          }
          store_warp<T, kPiece * 2>(panel, args, row, end, column + q * kPiece * 2, [&](int i) {
            return pack(T(), sums[q * kPiece + i], sums[q * kPiece + i + 1]);
          });
        }
      }
    }
  }
  // Nobody leaves while another block may still write to it or arrive at its barriers.
  if constexpr (kPeers > 1) cluster_barrier();
#endif
}

template <typename T, MediumPlan kPlan>
void launch_medium(const LinearParams& p, const TensorView& residual, const OpContext& context) {
  const auto up = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  constexpr int kCluster = kPlan.row_blocks * kPlan.column_blocks * kPlan.split;
  constexpr int kWidth = kPlan.is_gated ? kPlan.columns / 2 : kPlan.columns;
  const int64_t columns = p.y.shape[1];
  const int down = up(p.x.shape[0], kPlan.row_blocks * kTileRows);
  const int across = up(columns, kPlan.column_blocks * kWidth);
  // As many rows in each tile: where they are fewer than it has room for, all of them copy less.
  const int tile_rows = box_rows(up(p.x.shape[0], kPlan.row_blocks * down), kTileRows);
  const int x_rows = box_rows(up(tile_rows, kPlan.column_blocks), kTileRows / kPlan.column_blocks);
  const MediumArgs args{.y = p.y.data,
                        .residual = residual.data,
                        .rows = static_cast<int>(p.x.shape[0]),
                        .columns = static_cast<int>(columns),
                        .second = kPlan.is_gated ? static_cast<int>(columns) : kPlan.columns / 2,
                        .steps = up(p.x.shape[1], kDepth),
                        .tile_rows = tile_rows,
                        .x_rows = x_rows,
                        .tiles = {.down = down, .across = across, .group = kGroup}};
  const int resident = context.num_multiprocessors / kCluster;
  const int clusters = kPlan.split > 1 ? down * across : std::min(down * across, resident);
  const auto kernel = medium_kernel<T, kPlan.columns, kPlan.row_blocks, kPlan.column_blocks,
                                    kPlan.split, kPlan.is_gated>;
  constexpr int kBytes = kSharedBytes<kPlan.columns>;
  allow_shared_bytes(kernel, kBytes);
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(clusters * kCluster)),
          .block = dim3(kThreads),
          .shared_bytes = kBytes,
          .cluster = kCluster},
         context, tensor_map(p.x, x_rows, kDepth), tensor_map(p.weight, kPlan.columns / 2, kDepth),
         args);
}

}  // namespace inflight::cuda::medium
