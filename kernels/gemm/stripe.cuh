// Up to 64 rows of x on Hopper: a stream of weights through the tensor cores, in which x is a small
// part. A thread block owns a stripe of the weights' rows, about as many as make one stripe to a
// multiprocessor, and copies x once for all of them; where stripes would be too narrow for that,
// the blocks of a cluster share one's depth.
//
// The rows of the weights are the wide operand (64 to a product), those of x the narrow one. The
// ring (weight_ring.cuh) fills most of the shared memory. The sums stay in the registers they grew
// in until y: parts of a divided depth go to the same lanes of another block, a transposition turns
// columns of y into rows. They are added in a fixed order: a row's bits depend neither on timing
// nor on the other rows.
#pragma once

#include <algorithm>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/mma.cuh"
#include "kernels/gemm/gate.cuh"
#include "kernels/gemm/norm.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"
#include "kernels/gemm/tensor_map.h"
#include "kernels/gemm/weight_ring.cuh"

namespace inflight::cuda::stripe {

using ring::Cursor, ring::kDepth, ring::kMaxSlots, ring::kProducers, ring::kUnit, ring::WeightRing;

/// Of shared memory, and of weights on their way, to one or two blocks on a multiprocessor.
/// Measured in layers of an 8B: all of 80 KB 2 to 4 us slower, of 32 KB 5 to 9, of 24 KB 40.
inline constexpr int kRingBytes[] = {0, 199 << 10, 111 << 10};
inline constexpr int kWindowBytes[] = {0, 64 << 10, 40 << 10};

/// Threads that find the scales of a norm of x (SplitNorm, products.h).
inline constexpr int kScalers = 64;

struct StripeArgs {
  int rows;    // of weights, in a stripe
  int split;   // blocks of a cluster
  int chunks;  // of depth
  int slots;
  int window;  // slots of weights on their way at most
  int depth;   // elements
  SplitNorm norm;
};

/// Grid: split blocks to each stripe, of a warpgroup to 64 weight rows and two warps that copy;
/// with a norm of x two more that find its scales. A gated stripe has 8 rows of the gate, 8 of up,
/// in turns.
template <typename T, int kRows, int kGroups, int kChunks, bool kAdds>
__global__ void __launch_bounds__(kGroups * 128 + kProducers + (kAdds ? 0 : kScalers), 2)
    stripe_kernel(const __grid_constant__ CUtensorMap weights,
                  const __grid_constant__ CUtensorMap x, const ProductOutput out,
                  const StripeArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kConsumers = kGroups * 128, kBlockPairs = kRows / 4 * 32;
  constexpr int kXBytes = kRows * kDepth * 2;
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t weights_full[kMaxSlots], x_full[kMaxSlots], empty[kMaxSlots], parts_full,
      scales_known;
  __shared__ alignas(8) float scales[kRows];  // of x's rows
  const bool has_norm = !kAdds && args.norm.squares != nullptr;

  const int part = static_cast<int>(blockIdx.x) % args.split;
  const int column =
      static_cast<int>(blockIdx.x) / args.split * (out.is_gated ? args.rows / 2 : args.rows);
  const int units = (args.chunks + kUnit - 1) / kUnit;
  const int begin = units * part / args.split * kUnit;
  const int end = min(units * (part + 1) / args.split * kUnit, args.chunks);
  const int count = (end - begin + kChunks - 1) / kChunks;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int weight_bytes = args.rows * kDepth * 2;  // of a chunk
  const int slot_bytes = kChunks * (weight_bytes + kXBytes);
  // Blocks of 16 weight rows, a warp's of a tile, whose sums end here. Behind the ring: other
  // parts of them, [split - 1][blocks][kRows / 8][32 lanes] of four, and residuals in pairs.
  const int blocks = (args.rows + 15) / 16 / args.split;
  float4* parts = reinterpret_cast<float4*>(shared + args.slots * slot_bytes +
                                            (kGroups * 64 - args.rows) * 128);
  const int parts_of_peer = blocks * (kRows / 8) * 32;
  auto* residuals = reinterpret_cast<uint32_t*>(parts + (args.split - 1) * parts_of_peer);

  const WeightRing<T, kRows, kChunks> ring{.weights = weights,
                                           .x = x,
                                           .weights_full = weights_full,
                                           .x_full = x_full,
                                           .empty = empty,
                                           .slots_at = shared,
                                           .slots = args.slots,
                                           .window = args.window,
                                           .weight_bytes = weight_bytes,
                                           .x_rows = box_rows(out.rows, kRows),
                                           .column = column,
                                           .begin = begin,
                                           .count = count,
                                           .is_gated = out.is_gated};

  let_next_start();
  const uint64_t policy = read_once_policy();
  const int early = min(count, args.window);
  if (thread == kConsumers) {
    ring.init(kConsumers / 32);
    init_barrier(&parts_full, 1);
    init_barrier(&scales_known, kScalers);
    publish_barriers();
    if (args.split > 1) arrive_expecting(&parts_full, (args.split - 1) * parts_of_peer * 16);
    ring.start(early, policy);
  }
  __syncwarp();
  if (args.split > 1) {
    cluster_barrier();
  } else {
    __syncthreads();
  }

  if (warp == kConsumers / 32) {
    if (lane == 0) ring.feed_weights(early, policy);
    return;
  }
  if (!kAdds && warp > kConsumers / 32 + 1) {
    wait_for_previous();
    find_scales(scales, args.norm, out.rows, args.depth, warp - kConsumers / 32 - 2, kScalers / 32);
    arrive(&scales_known);
    return;
  }
  if (warp > kConsumers / 32) {
    if (lane == 0) ring.feed_x();
    return;
  }

  // This warp's block of weight rows.
  const int block = warp, row_of = lane / 4, pair = lane % 4 * 2;
  const int owner = block / blocks, first = column + block * (out.is_gated ? 8 : 16);
  const bool is_there = block * 16 < args.rows, is_ours = is_there && owner == part;

  float sums[kRows / 2] = {};
  Cursor from(args.slots, 0);
  for (int step = 0; step < count; ++step, from.advance()) {
    wait(&x_full[from.slot], from.parity);
    if constexpr (kAdds) {
      // What x comes from has ended: residuals are there. They are read now and added last.
      if (step == 0 && is_ours) {
        const T* source = static_cast<const T*>(out.residual) + first + pair;
        for (int i = 0; i < kRows / 4; ++i) {
          const int row = i / 2 * 8 + row_of, across = i % 2 * 8;
          if (row < out.rows && first + pair + across < out.columns)
            copy_word_async(
                shared_address(residuals + block % blocks * kBlockPairs + i * 32 + lane),
                source + int64_t{row} * out.columns + across);
        }
      }
    }
    wait(&weights_full[from.slot], from.parity);
    // A tile cut short reads on: sums of no column.
    ring.add_products(sums, from.slot, warp / 4 * (64 * 128));
  }

  const int at_block = block % blocks * (kRows / 8) * 32 + lane;
  if (args.split > 1) {
    if (is_there && !is_ours) {
      const float4* there = parts + (part - (part > owner)) * parts_of_peer + at_block;
      const uint32_t to = remote_address(shared_address(there), owner);
      const uint32_t barrier = remote_address(shared_address(&parts_full), owner);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) send_four(to + i * 512, &sums[4 * i], barrier);
    }
    wait(&parts_full, 0);
  }
  if constexpr (kAdds) wait_all_copies();
  if (!is_ours) return;
  if (has_norm) wait(&scales_known, 0);
  float bias[2] = {};  // of the lane's column and the one 8 further, or of gate and up
  if (out.bias != nullptr) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = first + row_of + (out.is_gated ? 0 : half * 8);
      if (at < out.columns)
        bias[half] =
            load_float(out.bias, out.bias_dtype, at + (out.is_gated ? half * out.columns : 0));
    }
  }
  T* y = static_cast<T*>(out.y) + int64_t{row_of} * out.columns + first + pair;
#pragma unroll
  for (int i = 0; i < kRows / 8; ++i) {
    float v[4] = {};
    for (int peer = 0; peer < args.split; ++peer) {
      float4 p{sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
      if (peer != part) p = parts[(peer - (peer > part)) * parts_of_peer + at_block + i * 32];
      v[0] += p.x, v[1] += p.y, v[2] += p.z, v[3] += p.w;
    }
    if (has_norm) {
      const float2 scale = *reinterpret_cast<const float2*>(scales + i * 8 + pair);
      v[0] *= scale.x, v[1] *= scale.y, v[2] *= scale.x, v[3] *= scale.y;
    }
    if (out.bias != nullptr) v[0] += bias[0], v[1] += bias[0], v[2] += bias[1], v[3] += bias[1];
    const auto store = [&](int half, uint32_t values) {
      values = transposed(values);
      if (i * 8 + row_of >= out.rows || first + half * 8 + pair >= out.columns ||
          (!out.is_gated && block * 16 + half * 8 >= args.rows))
        return;
      if constexpr (kAdds) {
        const float2 s = unpack(T(), values);
        const float2 r =
            unpack(T(), residuals[block % blocks * kBlockPairs + (i * 2 + half) * 32 + lane]);
        values = pack(T(), s.x + r.x, s.y + r.y);
      }
      *reinterpret_cast<uint32_t*>(y + int64_t{i} * 8 * out.columns + half * 8) = values;
    };
    if (out.is_gated) {
      store(0, gated<T>(v[0], v[1], v[2], v[3]));
    } else {
      store(0, pack(T(), v[0], v[1]));
      store(1, pack(T(), v[2], v[3]));
    }
  }
#endif
}

template <typename T, int kRows, int kGroups, int kChunks, bool kAdds>
void launch_stripes(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
                    const SplitNorm& norm) {
  const auto kernel = stripe_kernel<T, kRows, kGroups, kChunks, kAdds>;
  const TensorView &x = p.linear.x, &weight = p.linear.weight;
  const int slot_bytes = kChunks * (plan.rows + kRows) * kDepth * 2;
  const int blocks = (plan.rows + 15) / 16 / plan.split;
  const int behind = (kGroups * 64 - plan.rows) * 128 + (plan.split - 1) * blocks * kRows * 64 +
                     (kAdds ? blocks * kRows * 32 : 0);
  const int slots =
      std::clamp((kRingBytes[plan.per_multiprocessor] - behind) / slot_bytes, 2, kMaxSlots);
  const int bytes = slots * slot_bytes + behind + 1024;
  allow_shared_bytes(kernel, bytes);
  const ProductOutput out = output_of(p);
  const int width = p.is_gated ? plan.rows / 2 : plan.rows;
  const int stripes = (out.columns + width - 1) / width;
  const int window = kWindowBytes[plan.per_multiprocessor] / (kChunks * plan.rows * kDepth * 2);
  launch(
      kernel,
      {.grid = dim3(static_cast<unsigned>(stripes * plan.split)),
       .block = dim3(kGroups * 128 + kProducers + (norm.squares != nullptr ? kScalers : 0)),
       .shared_bytes = static_cast<size_t>(bytes),
       .cluster = plan.split},
      context,
      p.is_gated ? tensor_map_of_halves(weight, plan.rows) : tensor_map(weight, plan.rows, kDepth),
      tensor_map(x, box_rows(out.rows, kRows), kDepth), out,
      StripeArgs{.rows = plan.rows,
                 .split = plan.split,
                 .chunks = static_cast<int>((x.shape[1] + kDepth - 1) / kDepth),
                 .slots = slots,
                 .window = std::clamp(window, 1, slots),
                 .depth = static_cast<int>(x.shape[1]),
                 .norm = norm});
}

template <typename T, int kRows, bool kAdds>
void launch_width(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
                  const SplitNorm& norm) {
  constexpr int kChunks = kRows == 64 ? 1 : 2;  // of narrow stripes: slots of 8 to 24 KB
  if (plan.rows <= 64) return launch_stripes<T, kRows, 1, kChunks, kAdds>(p, plan, context, norm);
  launch_stripes<T, kRows, 2, 1, kAdds>(p, plan, context, norm);
}

template <typename T, int kRows>
void launch_rows(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
                 const SplitNorm& norm) {
  if (p.residual) return launch_width<T, kRows, true>(p, plan, context, norm);
  launch_width<T, kRows, false>(p, plan, context, norm);
}

/// What stripe_product asks for, of T.
template <typename T>
void launch(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
            const SplitNorm& norm) {
  const int64_t rows = p.linear.x.shape[0];
  if (rows <= 16) return launch_rows<T, 16>(p, plan, context, norm);
  if (rows <= 32) return launch_rows<T, 32>(p, plan, context, norm);
  launch_rows<T, 64>(p, plan, context, norm);
}

}  // namespace inflight::cuda::stripe
