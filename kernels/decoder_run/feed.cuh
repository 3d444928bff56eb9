// The warp that copies a run's weights (decoder_run.cu).
#pragma once

#include "kernels/decoder_run/run_args.cuh"

namespace inflight::cuda::decoder {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Lane w fills consumer w's ring with all that this block multiplies, layer after layer, in the
/// order in which it is read.
class Feeder {
 public:
  __device__ __forceinline__ Feeder(const Args& args, Shared& shared, uint8_t* slots, int warp)
      : args_(args),
        shared_(shared),
        ring_(slots + warp * args.slots * kSlotBytes),
        warp_(warp),
        behind_(args.window / kWarps + (warp < args.window % kWarps ? 1 : 0)),
        other_((warp + kWarps - args.window % kWarps) % kWarps) {}

  __device__ __forceinline__ void run() {
    const int count = args_.pointers.num_layers * kLayerKinds + (args_.pointers.has_head ? 1 : 0);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      if (warp_ == 0 && i + 1 < count) prefetch_map(map_of(i + 1));
      const bool is_head = i == args_.pointers.num_layers * kLayerKinds;
      copy(args_.linears[is_head ? kHead : i % kLayerKinds], map_of(i));
    }
  }

 private:
  __device__ __forceinline__ const CUtensorMap& map_of(int i) const {
    if (i == args_.pointers.num_layers * kLayerKinds) return args_.head_weights;
    return args_.layers[i / kLayerKinds].weights[i % kLayerKinds];
  }

  __device__ __forceinline__ void copy(const Linear& linear, const CUtensorMap& weights) {
    const int chunks = narrow::chunks_of(linear.groups);
    const int bytes = linear.groups * chunks * narrow::kAtom;
    const int steps = linear.steps, tiles = linear.tiles, width = linear.width;
    const int up_row = linear.is_gated ? linear.columns : 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const int row = tile * width;
      int at = turned(linear, 0, static_cast<int>(blockIdx.x));
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        const int chunk = (at * kWarps + warp_) * chunks;
        if (++at == steps) at = 0;
        wait(&shared_.empty[warp_][slot_], parity_);
        wait_for_window();
        uint64_t* barrier = &shared_.full[warp_][slot_];
        uint8_t* to = ring_ + slot_ * kSlotBytes;
        arrive_expecting(barrier, bytes);
        copy_chunks(to, weights, row, chunk, barrier, policy_);
        if (up_row != 0)
          copy_chunks(to + bytes / 2, weights, up_row + row, chunk, barrier, policy_);
        if (++slot_ == args_.slots) {
          slot_ = 0;
          parity_ ^= 1;
        }
        __syncwarp((1u << kWarps) - 1);
      }
    }
  }

  /// For the copy that must have come before the next one starts (narrow.cu).
  __device__ __forceinline__ void wait_for_window() {
    if (copies_++ < behind_) return;
    wait(&shared_.full[other_][old_slot_], old_parity_);
    if (++old_slot_ == args_.slots) {
      old_slot_ = 0;
      old_parity_ ^= 1;
    }
  }

  const Args& args_;
  Shared& shared_;
  uint8_t* ring_;
  const uint64_t policy_ = read_once_policy();
  const int warp_, behind_, other_;
  int slot_ = 0, old_slot_ = 0, copies_ = 0;
  uint32_t parity_ = 1;  // the first time round the slots are empty
  uint32_t old_parity_ = 0;
};

#endif

}  // namespace inflight::cuda::decoder
