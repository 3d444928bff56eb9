// What kernels of many rows of x share on Hopper (medium.cuh, wide.cuh): the order of tiles, and a
// warpgroup's way through a ring of stages, x before weights.
#pragma once

#include "kernels/core/cuda/barrier.cuh"
#include "kernels/core/cuda/wgmma.cuh"

namespace inflight::cuda {

/// How many tiles of y, or clusters of tiles, and how many of those below each other have their x
/// in the L2 while all of the weights pass.
struct TileGrid {
  int down, across, group;
};

struct TilePlace {
  int down, across;
};
/// Tiles by number: the rows of a group innermost, then columns, then groups.
__device__ __forceinline__ TilePlace place_of(const TileGrid& grid, int number) {
  const int group_tiles = grid.group * grid.across;
  const int first = number / group_tiles * grid.group, rest = number % group_tiles;
  const int height = min(grid.group, grid.down - first);
  return {first + rest % height, rest / height};
}

/// Where a warpgroup is in a ring of kStages stages of kStageBytes: x, kXBytes from its start on
/// weights, both of a depth of 64.
template <int kStages, int kStageBytes, int kXBytes>
struct StageRing {
  uint64_t* full;  // [kStages]
  uint32_t base;   // the first stage's shared address
  int stage = 0;
  uint32_t parity = 0;

  /// sums[64 rows][2 * kCount] = x * weights^T over `count` stages, of x's rows from `offset` bytes
  /// on. release(stage) where the stage has been read.
  template <typename T, int kCount, typename Release>
  __device__ __forceinline__ void multiply_all(float (&sums)[kCount], int count, int offset,
                                               const Release& release) {
    int previous = -1;
    for (int step = 0; step < count; ++step) {
      wait(&full[stage], parity);
      const uint32_t at = base + stage * kStageBytes;
      const uint64_t a = tile_descriptor(at + offset);
      const uint64_t b = tile_descriptor(at + kXBytes);
      pin(sums);
      begin_products();
#pragma unroll
      for (int k = 0; k < 4; ++k) multiply<T>(sums, a + 2 * k, b + 2 * k, step + k);
      commit_products();
      if (previous >= 0) {
        wait_products<1>();
        release(previous);
      }
      previous = stage;
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    wait_products<0>();
    pin(sums);
    release(previous);
  }
};

}  // namespace inflight::cuda
