// The ring in shared memory through which stripes and slices (stripe.cuh, slice.cuh) read weights
// and x. One warp copies weights, another x: weights never change, so the ring fills before the
// kernel before is done. Fewer copies of weights are on their way than the ring holds, or whatever
// else is read would queue behind them.
#pragma once

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/wgmma.cuh"

namespace inflight::cuda::ring {

inline constexpr int kDepth = 64;  // elements of a chunk: 128 bytes, the swizzle's width
inline constexpr int kUnit = 4;    // chunks; blocks share the depth by so many
inline constexpr int kMaxSlots = 16;
inline constexpr int kProducers = 64;  // threads

/// Where in a ring a thread is, and the parity of the phase that it waits for.
struct Cursor {
  int slots, slot = 0;
  uint32_t parity;
  __device__ __forceinline__ Cursor(int slots, uint32_t parity) : slots(slots), parity(parity) {}
  __device__ __forceinline__ void advance() {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

/// Of kRows rows of x; a slot has kChunks chunks of weights, then as many of x.
template <typename T, int kRows, int kChunks>
struct WeightRing {
  static constexpr int kXBytes = kRows * kDepth * 2;  // of a chunk

  const CUtensorMap& weights;  // tensor_map_of_halves if is_gated
  const CUtensorMap& x;
  uint64_t *weights_full, *x_full, *empty;  // [slots], in shared memory
  uint8_t* slots_at;
  int slots, window;  // slots of weights on their way at most
  int weight_bytes;   // of a chunk
  int x_rows;         // of x's boxes; what lies behind them in a chunk is of nobody's rows
  int column;         // of y, where the thread block's begin
  int begin, count;   // chunks of depth before it; slots' worth of them
  bool is_gated;

  __device__ __forceinline__ uint8_t* at(int slot) const {
    return slots_at + slot * (kChunks * (weight_bytes + kXBytes));
  }
  /// By one thread, before publish_
  __device__ __forceinline__ void init(int consumer_warps) const {
    prefetch_map(weights);
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      init_barrier(&weights_full[slot], 1);
      init_barrier(&x_full[slot], 1);
      init_barrier(&empty[slot], consumer_warps);
    }
  }
  __device__ __forceinline__ void copy_weights(int step, int slot, uint64_t policy) const {
    uint64_t* full = &weights_full[slot];
    arrive_expecting(full, kChunks * weight_bytes);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      uint8_t* to = at(slot) + c * weight_bytes;
      const int k = (begin + step * kChunks + c) * kDepth;
      if (is_gated) {
        copy_box_of_four(to, weights, k, column / 8, full, policy);
      } else {
        copy_tile(to, weights, k, column, full, policy);
      }
    }
  }
  /// What fits, at once: by the thread that has done init.
  __device__ __forceinline__ void start(int early, uint64_t policy) const {
#pragma unroll 1
    for (int step = 0; step < early; ++step) copy_weights(step, step, policy);
    prefetch_map(x);
  }
  /// The rest of the weights, by one thread.
  __device__ __forceinline__ void feed_weights(int early, uint64_t policy) const {
    Cursor to(slots, 1), arriving(slots, 0);
#pragma unroll 4
    for (int step = 0; step < count; ++step, to.advance()) {
      if (step >= window) {
        wait(&weights_full[arriving.slot], arriving.parity);
        arriving.advance();
      }
      if (step < early) continue;
      wait(&empty[to.slot], to.parity);
      copy_weights(step, to.slot, policy);
    }
  }
  /// All of x, by one thread.
  __device__ __forceinline__ void feed_x() const {
    wait_for_previous();
    Cursor to(slots, 1);
#pragma unroll 4
    for (int step = 0; step < count; ++step, to.advance()) {
      uint64_t* full = &x_full[to.slot];
      wait(&empty[to.slot], to.parity);
      arrive_expecting(full, kChunks * x_rows * (kDepth * 2));
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        copy_tile(at(to.slot) + kChunks * weight_bytes + c * kXBytes, x,
                  (begin + step * kChunks + c) * kDepth, 0, full);
      }
    }
  }
  /// sums += a slot's weights * x^T, by a warpgroup; 64 weight rows from `offset` bytes on. One
  /// arrival for a warp.
  __device__ __forceinline__ void add_products(float (&sums)[kRows / 2], int slot,
                                               int offset = 0) const {
    const uint32_t address = shared_address(at(slot));
    begin_products();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const uint64_t a = tile_descriptor(address + c * weight_bytes + offset);
      const uint64_t b = tile_descriptor(address + kChunks * weight_bytes + c * kXBytes);
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) add_product<T>(sums, a + 2 * k, b + 2 * k);
    }
    commit_products();
    wait_products<0>();
    if (threadIdx.x % 32 == 0) arrive(&empty[slot]);
  }
  /// sums += x * a slot's weights^T, 64 rows of x and the first 2 * kCount of the weights, by a
  /// warpgroup. One arrival for a warp.
  template <int kCount>
  __device__ __forceinline__ void add_products_of_x(float (&sums)[kCount], int slot) const {
    static_assert(kRows == 64 && kChunks == 1);
    const uint32_t address = shared_address(at(slot));
    const uint64_t a = tile_descriptor(address + weight_bytes), b = tile_descriptor(address);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) add_product<T>(sums, a + 2 * k, b + 2 * k);
    commit_products();
    wait_products<0>();
    if (threadIdx.x % 32 == 0) arrive(&empty[slot]);
  }
};

}  // namespace inflight::cuda::ring
