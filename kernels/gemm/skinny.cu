// Few rows of x on Hopper: a stream of weights through the tensor cores. The rows of the weights
// are the wide operand (64 to a warpgroup), the rows of x the narrow one (8 to 64), so a product of
// one row costs what reading its weights costs. A producer warp copies tiles through a ring of
// shared memory; as weights never change it fills the ring before it waits for the kernel before.
// The depth is split over the blocks of a cluster, whose sums are added in a fixed order: a row's
// bits depend neither on timing nor on the other rows.
#include <algorithm>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/wgmma.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {
namespace {

constexpr int kDepth = 64;       // elements of a ring slot: 128 bytes, the swizzle's width
constexpr int kColumns = 64;     // weight rows of a tile, a warpgroup's
constexpr int kConsumers = 128;  // threads
constexpr int kMaxSlots = 24;
constexpr int kPad = 4;  // floats after a row of sums, so that a warp's stores meet no bank twice

constexpr int slot_bytes(int x_rows) { return (kColumns + x_rows) * kDepth * 2; }
constexpr int sums_bytes(int x_rows, int split) { return x_rows * (kColumns + split * kPad) * 4; }
// Many rows' sums take the ring's place when all of the cluster have done with theirs.
constexpr bool sums_in_ring(int x_rows) { return x_rows >= 32; }

struct SkinnyArgs {
  int split;  // blocks of a cluster
  int steps;  // slots' worth of depth
  int slots;
};

/// Grid: split blocks to each tile of kColumns weight rows, of a warpgroup and a producer warp. A
/// gated tile holds half as many rows of the gate, then as many of up.
template <typename T, int kRows>
__global__ void __launch_bounds__(kConsumers + 32)
    skinny_kernel(const __grid_constant__ CUtensorMap weights,
                  const __grid_constant__ CUtensorMap x, const ProductOutput out,
                  const SkinnyArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kWeightBytes = kColumns * kDepth * 2;
  constexpr int kSlotBytes = slot_bytes(kRows);
  const int x_bytes = box_rows(out.rows, kRows) * kDepth * 2;
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t full[kMaxSlots], empty[kMaxSlots];

  const int rank = static_cast<int>(blockIdx.x) % args.split;
  const int halves = out.is_gated ? 2 : 1, width = kColumns / halves;
  const int column = static_cast<int>(blockIdx.x) / args.split * width;
  const int begin = args.steps * rank / args.split;
  const int count = args.steps * (rank + 1) / args.split - begin;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const bool is_producer = warp == kConsumers / 32;
  const int ahead = min(count, args.slots);

  const auto copy_weights = [&](int step, int slot, uint64_t policy) {
    arrive_expecting(&full[slot], kWeightBytes + x_bytes);
    uint8_t* to = shared + slot * kSlotBytes;
    copy_tile(to, weights, (begin + step) * kDepth, column, &full[slot], policy);
    if (out.is_gated) {
      copy_tile(to + kWeightBytes / 2, weights, (begin + step) * kDepth, out.columns + column,
                &full[slot], policy);
    }
  };
  const auto copy_x = [&](int step, int slot) {
    copy_tile(shared + slot * kSlotBytes + kWeightBytes, x, (begin + step) * kDepth, 0,
              &full[slot]);
  };
  const auto next_slot = [&](int& slot, uint32_t& parity) {
    if (++slot == ahead) {
      slot = 0;
      parity ^= 1;
    }
  };

  constexpr bool kSumsInRing = sums_in_ring(kRows);
  if (!kSumsInRing && args.split > 1) arrive_at_cluster();
  const uint64_t policy = read_once_policy();
  const bool is_issuer = is_producer && thread % 32 == 0;
  if (is_issuer) {
    prefetch_map(x);
    for (int slot = 0; slot < ahead; ++slot) {
      init_barrier(&full[slot], 1);
      init_barrier(&empty[slot], kConsumers / 32);
    }
    publish_barriers();
    for (int step = 0; step < ahead; ++step) copy_weights(step, step, policy);
  }
  __syncthreads();

  float sums[kRows / 2] = {};
  int slot = 0;
  uint32_t parity = 0;
  if (is_producer) {
    if (is_issuer) {
      wait_for_previous();
      for (int step = 0; step < ahead; ++step) copy_x(step, step);
      // The next kernel's blocks start about when the last of this one's copies arrive.
      const int trigger_step = max(ahead, count - 1 - ahead);
      if (count <= ahead) let_next_start();
      for (int step = ahead; step < count; ++step) {
        wait(&empty[slot], parity);
        copy_weights(step, slot, policy);
        if (step == trigger_step) let_next_start();
        copy_x(step, slot);
        next_slot(slot, parity);
      }
    }
  } else {
    for (int step = 0; step < count; ++step) {
      wait(&full[slot], parity);
      const uint32_t address = shared_address(shared + slot * kSlotBytes);
      const uint64_t a = tile_descriptor(address);
      const uint64_t b = tile_descriptor(address + kWeightBytes);
      begin_products();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) add_product<T>(sums, a + 2 * k, b + 2 * k);
      commit_products();
      wait_products<0>();
      if (thread % 32 == 0) arrive(&empty[slot]);
      next_slot(slot, parity);
    }
  }
  __syncwarp();

  // Each block of the cluster finishes a share of the tile's columns: the sums go to its shared
  // memory, [split][kRows][kColumns / split + kPad] behind the ring.
  const int share = width / args.split, stride = kColumns / args.split + kPad;
  float* parts = reinterpret_cast<float*>(shared + (kSumsInRing ? 0 : args.slots * kSlotBytes));
  if (args.split > 1) {
    if (kSumsInRing) arrive_at_cluster();
    wait_for_cluster();
  } else if (kSumsInRing) {
    __syncthreads();
  }
  const auto address_at = [&](float* at, int peer) {
    const uint32_t address = shared_address(at);
    return args.split > 1 ? remote_address(address, peer) : address;
  };
  if (!is_producer) {
    const int lane = thread % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = warp * 16 + lane / 4 + half * 8;
      const int owner = m % width / share, q = m / width * share + m % share;
      const uint32_t to = address_at(parts + (rank * kRows + lane % 4 * 2) * stride + q, owner);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        store_remote(to + i * 8 * stride * 4, sums[4 * i + 2 * half]);
        store_remote(to + (i * 8 + 1) * stride * 4, sums[4 * i + 2 * half + 1]);
      }
    }
  }
  if (args.split == 1) {
    __syncthreads();
  } else {
    arrive_at_cluster();
    wait_for_cluster();
  }
  if (is_producer) return;
  const int quads = share / 4;
#pragma unroll 2
  for (int i = thread; i < out.rows * quads; i += kConsumers) {
    const int row = i / quads, from = i % quads * 4, at = column + rank * share + from;
    const auto additions = load_additions<4>(out, row, at);
    float total[4] = {}, up[4] = {};
    for (int peer = 0; peer < args.split; ++peer) {
      const float* part = parts + (peer * kRows + row) * stride + from;
      add_four(total, part);
      if (out.is_gated) add_four(up, part + share);
    }
    store_finished<4>(out, row, at, total, up, additions);
  }
#endif
}

template <typename T, int kRows>
void run(const FusedProductParams& p, const SkinnyPlan& plan, const OpContext& context) {
  const auto kernel = skinny_kernel<T, kRows>;
  const TensorView& from = p.linear.x;
  const auto depth = static_cast<int>(from.shape[1]);
  const int steps = (depth + kDepth - 1) / kDepth;
  const int sums = sums_bytes(kRows, plan.split), slot = slot_bytes(kRows);
  const int apart = (sums_in_ring(kRows) ? 0 : sums) + 1024;
  const int slots = std::clamp((plan.shared_bytes - apart) / slot, 2, kMaxSlots);
  const size_t bytes = std::max(slots * slot, sums_in_ring(kRows) ? sums : 0) + apart;
  allow_shared_bytes(kernel, bytes);
  const ProductOutput out = output_of(p);
  const int width = p.is_gated ? kColumns / 2 : kColumns;
  const int blocks = (out.columns + width - 1) / width * plan.split;
  launch(kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kConsumers + 32), bytes, plan.split},
         context, tensor_map(p.linear.weight, width, kDepth),
         tensor_map(from, box_rows(out.rows, kRows), kDepth), out,
         SkinnyArgs{plan.split, steps, slots});
}

template <typename T>
void run_rows(const FusedProductParams& p, const SkinnyPlan& plan, const OpContext& context) {
  const int64_t rows = p.linear.x.shape[0];
  if (rows <= 8) return run<T, 8>(p, plan, context);
  if (rows <= 16) return run<T, 16>(p, plan, context);
  if (rows <= 32) return run<T, 32>(p, plan, context);
  run<T, 64>(p, plan, context);
}

}  // namespace

void skinny_product(const FusedProductParams& params, const SkinnyPlan& plan,
                    const OpContext& context) {
  if (params.linear.weight.dtype == DType::kFloat16) return run_rows<__half>(params, plan, context);
  run_rows<__nv_bfloat16>(params, plan, context);
}

}  // namespace inflight::cuda
