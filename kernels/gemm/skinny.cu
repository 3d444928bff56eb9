// Few rows of x on Hopper: a stream of weights through the tensor cores. The rows of the weights
// are the wide operand (64 to a warpgroup), the rows of x the narrow one (8 to 64), so a product of
// one row costs what reading its weights costs. A producer warp copies tiles through a ring of
// shared memory; as weights never change it fills the ring before it waits for the kernel before.
// The depth is split over the blocks of a cluster, whose sums are added in a fixed order: a row's
// bits depend neither on timing nor on the other rows.
#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/hopper.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {
namespace {

constexpr int kDepth = 64;  // elements of a ring slot: 128 bytes, the swizzle's width
constexpr int kMaxSlots = 24;
constexpr int kPad = 4;  // floats after a row of sums, so that a warp's stores meet no bank twice

constexpr int slot_bytes(int x_rows, int tiles) { return (64 * tiles + x_rows) * kDepth * 2; }
constexpr int sums_bytes(int x_rows, int tiles) { return x_rows * (64 * tiles + kPad) * 4; }

struct RingArgs {
  int split;  // blocks of a cluster
  int steps;  // slots' worth of depth
  int slots;
  int prefetched;  // steps beyond the ring's
};

/// Grid: split * ceil(columns / (64 * kTiles)) blocks of kTiles warpgroups and a producer warp.
template <typename T, int kRows, int kTiles>
__global__ void __launch_bounds__(kTiles * 128 + 32)
    skinny_kernel(const __grid_constant__ CUtensorMap weights,
                  const __grid_constant__ CUtensorMap x, const ProductOutput out,
                  const RingArgs ring) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kColumns = 64 * kTiles;
  constexpr int kWeightBytes = kColumns * kDepth * 2;
  constexpr int kSlotBytes = slot_bytes(kRows, kTiles);
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t full[kMaxSlots], empty[kMaxSlots];

  const int rank = static_cast<int>(blockIdx.x) % ring.split;
  const int column = static_cast<int>(blockIdx.x) / ring.split * kColumns;
  const int begin = ring.steps * rank / ring.split;
  const int count = ring.steps * (rank + 1) / ring.split - begin;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const bool is_producer = warp == kTiles * 4;
  const int ahead = min(count, ring.slots);

  const auto copy_weights = [&](int step, int slot, uint64_t policy) {
    arrive_expecting(&full[slot], kSlotBytes);
    copy_tile(shared + slot * kSlotBytes, weights, (begin + step) * kDepth, column, &full[slot],
              policy);
  };
  const auto copy_x = [&](int step, int slot) {
    copy_tile(shared + slot * kSlotBytes + kWeightBytes, x, (begin + step) * kDepth, 0,
              &full[slot]);
  };

  const uint64_t policy = read_once_policy();
  const bool is_issuer = is_producer && threadIdx.x % 32 == 0;
  if (is_issuer) {
    prefetch_map(x);
    for (int slot = 0; slot < ahead; ++slot) {
      init_barrier(&full[slot], 1);
      init_barrier(&empty[slot], kTiles * 4);
    }
    publish_barriers();
    for (int step = 0; step < ahead; ++step) copy_weights(step, step, policy);
    for (int step = ahead; step < min(count, ahead + ring.prefetched); ++step)
      prefetch_tile(weights, (begin + step) * kDepth, column);
  }
  let_next_start();
  __syncthreads();

  float sums[kRows / 2] = {};
  if (is_producer) {
    if (is_issuer) {
      wait_for_previous();
      for (int step = 0; step < ahead; ++step) copy_x(step, step);
      int slot = 0;
      uint32_t parity = 0;
      for (int step = ahead; step < count; ++step) {
        wait(&empty[slot], parity);
        copy_weights(step, slot, policy);
        copy_x(step, slot);
        if (++slot == ahead) {
          slot = 0;
          parity ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    const int tile = warp / 4;
    int slot = 0;
    uint32_t parity = 0;
    for (int step = 0; step < count; ++step) {
      wait(&full[slot], parity);
      const uint32_t address = shared_address(shared + slot * kSlotBytes);
      const uint64_t a = tile_descriptor(address + tile * 64 * kDepth * 2);
      const uint64_t b = tile_descriptor(address + kWeightBytes);
      begin_products();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) add_product<T, kRows>(sums, a + 2 * k, b + 2 * k);
      commit_products();
      wait_products<0>();
      if (threadIdx.x % 32 == 0) arrive(&empty[slot]);
      if (++slot == ahead) {
        slot = 0;
        parity ^= 1;
      }
    }
  }

  // The ring is idle: it holds the sums, [kRows][kColumns + kPad].
  constexpr int kStride = kColumns + kPad;
  float* all = reinterpret_cast<float*>(shared);
  __syncthreads();
  if (!is_producer) {
    const int lane = threadIdx.x % 32;
    float* to = all + (lane % 4) * 2 * kStride + warp * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < kRows / 8; ++i) {
      to[i * 8 * kStride] = sums[4 * i];
      to[(i * 8 + 1) * kStride] = sums[4 * i + 1];
      to[i * 8 * kStride + 8] = sums[4 * i + 2];
      to[(i * 8 + 1) * kStride + 8] = sums[4 * i + 3];
    }
  }
  if (ring.split == 1) {
    __syncthreads();
  } else {
    cluster_barrier();
  }
  // Each block of the cluster finishes its share of the columns, four to a thread.
  const int share = kColumns / ring.split, quads = share / 4;
  if (!is_producer) {
    for (int i = threadIdx.x; i < out.rows * quads; i += kTiles * 128) {
      const int row = i / quads, from = rank * share + i % quads * 4;
      const float* mine = all + row * kStride + from;
      float total[4] = {};
      if (ring.split == 1) {
        const float4 part = *reinterpret_cast<const float4*>(mine);
        total[0] = part.x, total[1] = part.y, total[2] = part.z, total[3] = part.w;
      } else {
#pragma unroll 4
        for (int peer = 0; peer < ring.split; ++peer) {
          const float4 part = load_remote(shared_address(mine), peer);
          total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
        }
      }
      store_sums<4>(out, row, column + from, total);
    }
  }
  if (ring.split > 1) cluster_barrier();  // until nobody reads this block's sums
#endif
}

template <typename T, int kRows, int kTiles>
void run(const LinearParams& p, const SkinnyPlan& plan, const OpContext& context) {
  const auto kernel = skinny_kernel<T, kRows, kTiles>;
  const auto columns = static_cast<int>(p.weight.shape[0]), depth = static_cast<int>(p.x.shape[1]);
  const int steps = (depth + kDepth - 1) / kDepth;
  const int slots = std::clamp(plan.ring_bytes / slot_bytes(kRows, kTiles), 2, kMaxSlots);
  const size_t bytes =
      std::max(slots * slot_bytes(kRows, kTiles), sums_bytes(kRows, kTiles)) + 1024;
  allow_shared_bytes(kernel, bytes);
  const int tiles = (columns + 64 * kTiles - 1) / (64 * kTiles);
  const ProductOutput out{.y = p.y.data,
                          .bias = p.bias.data,
                          .rows = static_cast<int>(p.x.shape[0]),
                          .columns = columns,
                          .y_dtype = p.y.dtype,
                          .bias_dtype = p.bias.dtype};
  launch(
      kernel,
      {dim3(static_cast<unsigned>(tiles * plan.split)), dim3(kTiles * 128 + 32), bytes, plan.split},
      context, tensor_map(p.weight, 64 * kTiles, kDepth), tensor_map(p.x, kRows, kDepth), out,
      RingArgs{plan.split, steps, slots, plan.prefetch_bytes / (64 * kTiles * kDepth * 2)});
}

template <typename T, int kRows>
void run_tiles(const LinearParams& p, const SkinnyPlan& plan, const OpContext& context) {
  if (plan.tiles == 1) return run<T, kRows, 1>(p, plan, context);
  run<T, kRows, 2>(p, plan, context);
}

template <typename T>
void run_rows(const LinearParams& p, const SkinnyPlan& plan, const OpContext& context) {
  const int64_t rows = p.x.shape[0];
  if (rows <= 8) return run_tiles<T, 8>(p, plan, context);
  if (rows <= 16) return run_tiles<T, 16>(p, plan, context);
  if (rows <= 32) return run_tiles<T, 32>(p, plan, context);
  run_tiles<T, 64>(p, plan, context);
}

}  // namespace

void skinny_product(const LinearParams& params, const SkinnyPlan& plan, const OpContext& context) {
  if (params.weight.dtype == DType::kFloat16) return run_rows<__half>(params, plan, context);
  run_rows<__nv_bfloat16>(params, plan, context);
}

}  // namespace inflight::cuda
