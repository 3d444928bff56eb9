// The two warps of the narrow product (narrow.cu) that feed the others: the one that copies weights
// and the one that watches for x.
#pragma once

#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/narrow.cuh"

namespace inflight::cuda::narrow {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Lane w fills consumer w's ring: all of its slots, in the order in which they are read.
__device__ __forceinline__ void produce(const Args& args, Shared& shared, uint8_t* slots,
                                        int warp) {
  const uint64_t policy = read_once_policy();
  uint8_t* ring = slots + warp * args.slots * kSlotBytes;
  int slot = 0, copies = 0;
  uint32_t parity = 1;  // the first time round the slots are empty
  // The copy that must have come before this one starts.
  const int behind = args.window / kWarps + (warp < args.window % kWarps ? 1 : 0);
  const int other = (warp + kWarps - args.window % kWarps) % kWarps;
  int old_slot = 0;
  uint32_t old_parity = 0;
  for (int i = 0; i < args.num_links; ++i) {
    const Link& link = args.links[i];
    const CUtensorMap& weights = args.weights[i];
    const int chunks = chunks_of(link.groups), bytes = link.groups * chunks * kAtom;
    const int steps = link.steps, tiles = link.tiles, width = link.width;
    const int up_row = link.out.is_gated ? link.out.columns : 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const int row = tile * width;
      for (int step = 0; step < steps; ++step) {
        const int chunk = (step * kWarps + warp) * chunks;
        wait(&shared.empty[warp][slot], parity);
        if (copies >= behind) {
          wait(&shared.full[other][old_slot], old_parity);
          if (++old_slot == args.slots) {
            old_slot = 0;
            old_parity ^= 1;
          }
        }
        uint64_t* barrier = &shared.full[warp][slot];
        uint8_t* to = ring + slot * kSlotBytes;
        arrive_expecting(barrier, bytes);
        copy_chunks(to, weights, row, chunk, barrier, policy);
        if (up_row != 0) copy_chunks(to + bytes / 2, weights, up_row + row, chunk, barrier, policy);
        ++copies;
        if (++slot == args.slots) {
          slot = 0;
          parity ^= 1;
        }
        __syncwarp((1u << kWarps) - 1);
      }
    }
  }
}

/// Tells the consumers when a link's x is there, and leaves zeros in the counters.
__device__ __forceinline__ void watch(const Args& args, Shared& shared) {
  if (args.num_links == 1) return;
  wait_for_previous();
  for (int i = 1; i < args.num_links; ++i) {
    wait_until(&args.counters[i - 1], gridDim.x);
    arrive(&shared.ready[i]);
  }
  // The last block to come here: none waits any more.
  uint32_t* gone = &args.counters[kMaxNarrowLinks - 1];
  if (atomicInc(gone, gridDim.x - 1) == gridDim.x - 1) {
    for (int i = 0; i < kMaxNarrowLinks - 1; ++i) args.counters[i] = 0;
  }
}

#endif

}  // namespace inflight::cuda::narrow
