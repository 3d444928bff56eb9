// Many rows of x on Hopper: products of 128 rows of x with 256 of weights, for a linear whose
// columns are a gate and what it gates. A tile has 128 columns of each, so the activation is
// computed where the sums are and the [rows, 2 * columns] between the two never exists.
//
// Persistent thread blocks: one warp copies tiles of x and weights through a ring of shared memory,
// two warpgroups multiply 64 rows of x each. (The shape is that of CUTLASS's warp-specialised
// cooperative kernel.)
#pragma once

#include <algorithm>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/mma.cuh"
#include "kernels/gemm/gate.cuh"
#include "kernels/gemm/many_rows.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda::wide {

inline constexpr int kTileRows = 128, kTileColumns = 128;  // of y
inline constexpr int kDepth = 64;  // elements of a step: the swizzle's width
inline constexpr int kXBytes = kTileRows * kDepth * 2, kHalfBytes = kTileColumns * kDepth * 2;
inline constexpr int kStageBytes = kXBytes + 2 * kHalfBytes;
inline constexpr int kStages = 4;
inline constexpr int kPanelBytes = 64 * 128;  // of y: 64 rows of 64 columns
inline constexpr int kSharedBytes = kStages * kStageBytes + 4 * kPanelBytes + 1024;
inline constexpr int kThreads = 3 * 128;
inline constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

struct WideArgs {
  int columns;  // of y: the rows of weights where the second half begins
  int steps;    // of depth
  TileGrid tiles;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void sync_warpgroup(int warpgroup) { sync_named(1 + warpgroup, 128); }

struct Tile {
  int row, column;  // of y
  __device__ __forceinline__ Tile(const WideArgs& args, int number) {
    const TilePlace at = place_of(args.tiles, number);
    row = at.down * kTileRows;
    column = at.across * kTileColumns;
  }
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    gated_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weights,
                 const __grid_constant__ CUtensorMap y, const WideArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t full[kStages], empty[kStages];
  const int stride = static_cast<int>(gridDim.x);
  const int num_tiles = args.tiles.down * args.tiles.across;

  if (threadIdx.x == 0) {
    prefetch_map(x);
    prefetch_map(weights);
    prefetch_map(y);
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&empty[i], 8);  // consumer warps
    }
    publish_barriers();
  }
  __syncthreads();
  let_next_start();

  if (threadIdx.x < 128) {
    give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) {
      int stage = 0;
      uint32_t parity = 1;
      const auto copy_x = [&](const Tile& tile, int step, int to) {
        copy_tile(shared + to * kStageBytes, x, step * kDepth, tile.row, &full[to]);
      };
      const auto copy_weights = [&](const Tile& tile, int step, int to) {
        uint8_t* at = shared + to * kStageBytes + kXBytes;
        arrive_expecting(&full[to], kStageBytes);
        copy_tile(at, weights, step * kDepth, tile.column, &full[to]);
        copy_tile(at + kHalfBytes, weights, step * kDepth, args.columns + tile.column, &full[to]);
      };
      // Weights never change: the ring is filled with them before the kernel before is done.
      const int first = static_cast<int>(blockIdx.x), ahead = min(kStages, args.steps);
      {
        const Tile tile(args, first);
        for (int step = 0; step < ahead; ++step) copy_weights(tile, step, step);
        wait_for_previous();
        for (int step = 0; step < ahead; ++step) copy_x(tile, step, step);
      }
      if (ahead == kStages) {
        parity = 0;
      } else {
        stage = ahead;
      }
      for (int number = first; number < num_tiles; number += stride) {
        const Tile tile(args, number);
        for (int step = number == first ? ahead : 0; step < args.steps; ++step) {
          wait(&empty[stage], parity);
          copy_weights(tile, step, stage);
          copy_x(tile, step, stage);
          if (++stage == kStages) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    take_registers<kConsumerRegisters>();
    // Shuffled, the compiler knows it as the same for a warp.
    const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    uint8_t* panels = shared + kStages * kStageBytes + warpgroup * 2 * kPanelBytes;
    const int store_row = warp * 16 + lane / 8 % 2 * 8 + lane % 8, store_block = lane / 16;
    StageRing<kStages, kStageBytes, kXBytes> ring{full, shared_address(shared)};
    float sums[128];
    const auto release = [&](int which) {
      if (lane == 0) arrive(&empty[which]);
    };
    for (int number = static_cast<int>(blockIdx.x); number < num_tiles; number += stride) {
      ring.template multiply_all<T>(sums, args.steps, warpgroup * (64 * kDepth * 2), release);

      const Tile tile(args, number);
      // The stores of the tile before have left the panels.
      if (threadIdx.x % 128 == 0) wait_stores_read();
      sync_warpgroup(warpgroup);
#pragma unroll
      for (int block = 0; block < 16; block += 2) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = block * 4 + i * 2;
          words[i] = gated<T>(sums[at], sums[at + 1], sums[64 + at], sums[64 + at + 1]);
        }
        const int to = block + store_block;
        store_matrices(shared_address(panels) + to / 8 * kPanelBytes + store_row * 128 +
                           ((to % 8) ^ (store_row % 8)) * 16,
                       words);
      }
      fence_shared();
      sync_warpgroup(warpgroup);
      if (threadIdx.x % 128 == 0) {
        const int row = tile.row + warpgroup * 64;
        store_tile(y, tile.column, row, panels);
        store_tile(y, tile.column + 64, row, panels + kPanelBytes);
        commit_stores();
      }
    }
    if (threadIdx.x % 128 == 0) wait_stores();
    __syncwarp();
  }
#endif
}

template <typename T>
void launch_gated(const LinearParams& p, int group, const OpContext& context) {
  const auto up = [](int64_t x, int64_t y) { return static_cast<int>((x + y - 1) / y); };
  const int64_t columns = p.weight.shape[0] / 2;
  const WideArgs args{.columns = static_cast<int>(columns),
                      .steps = up(p.x.shape[1], kDepth),
                      .tiles = {.down = up(p.x.shape[0], kTileRows),
                                .across = up(columns, kTileColumns),
                                .group = group}};
  const int blocks = std::min(args.tiles.down * args.tiles.across, context.num_multiprocessors);
  const auto kernel = gated_kernel<T>;
  allow_shared_bytes(kernel, kSharedBytes);
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = kSharedBytes},
         context, tensor_map(p.x, kTileRows, kDepth), tensor_map(p.weight, kTileColumns, kDepth),
         tensor_map(p.y, 64, 64), args);
}

}  // namespace inflight::cuda::wide
