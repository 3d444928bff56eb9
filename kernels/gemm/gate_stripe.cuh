// 33 to 64 rows of x on Hopper times the many weights of a gate and up: stripes (stripe.cuh) that
// no thread blocks share, multiplied the other way around. x is the 64 rows that a tensor core's
// product has on its left and a stripe all of its columns: a stripe's weights are read from shared
// memory once and nothing is multiplied for nobody, which takes less energy, by which steps of so
// many rows are bound.
#pragma once

#include "kernels/gemm/stripe.cuh"

namespace inflight::cuda::gate_stripe {

using ring::Cursor, ring::kDepth, ring::kMaxSlots, ring::kProducers, ring::WeightRing;
using stripe::kRingBytes, stripe::kScalers, stripe::kWindowBytes;

inline constexpr int kMaxRows = 64;  // of x
inline constexpr int kConsumers = 128;

struct GateArgs {
  int rows;    // of weights, in a stripe: 8 of the gate, 8 of up, in turns
  int chunks;  // of depth
  int slots;
  int window;  // slots of weights on their way at most
  int depth;   // elements
  SplitNorm norm;
};

/// Grid: a block to each stripe, of a warpgroup and two warps that copy; with a norm of x two more
/// that find its scales. kCount: a thread's sums, of 2 * kCount weight rows.
template <typename T, int kCount>
__global__ void __launch_bounds__(kConsumers + kProducers + kScalers, 2)
    gate_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap x,
                const ProductOutput out, const GateArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t weights_full[kMaxSlots], x_full[kMaxSlots], empty[kMaxSlots], scales_known;
  __shared__ float scales[kMaxRows];  // of x's rows
  const bool has_norm = args.norm.squares != nullptr;

  const int width = args.rows / 2, column = static_cast<int>(blockIdx.x) * width;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const WeightRing<T, kMaxRows, 1> ring{.weights = weights,
                                        .x = x,
                                        .weights_full = weights_full,
                                        .x_full = x_full,
                                        .empty = empty,
                                        .slots_at = shared,
                                        .slots = args.slots,
                                        .window = args.window,
                                        .weight_bytes = args.rows * kDepth * 2,
                                        .x_rows = box_rows(out.rows, kMaxRows),
                                        .column = column,
                                        .begin = 0,
                                        .count = args.chunks,
                                        .is_gated = true};

  let_next_start();
  const uint64_t policy = read_once_policy();
  const int early = min(args.chunks, args.window);
  if (thread == kConsumers) {
    ring.init(kConsumers / 32);
    init_barrier(&scales_known, kScalers);
    publish_barriers();
    ring.start(early, policy);
  }
  __syncthreads();

  if (warp == kConsumers / 32) {
    if (lane == 0) ring.feed_weights(early, policy);
    return;
  }
  if (warp > kConsumers / 32 + 1) {
    wait_for_previous();
    find_scales(scales, args.norm, out.rows, args.depth, warp - kConsumers / 32 - 2, kScalers / 32);
    arrive(&scales_known);
    return;
  }
  if (warp > kConsumers / 32) {
    if (lane == 0) ring.feed_x();
    return;
  }

  float sums[kCount] = {};
  Cursor from(args.slots, 0);
#pragma unroll 1
  for (int step = 0; step < args.chunks; ++step, from.advance()) {
    wait(&x_full[from.slot], from.parity);
    wait(&weights_full[from.slot], from.parity);
    ring.add_products_of_x(sums, from.slot);
  }

  // Rows of y are put together in the ring's place, [kMaxRows][pitch], for stores of 16 bytes. At
  // that pitch eight rows lie in different banks.
  const int pitch = width | 8, row = warp * 16 + lane / 4, pair = lane % 4 * 2;
  T* panel = reinterpret_cast<T*>(shared);
  float scale[2] = {1, 1};  // of rows `row` and row + 8
  if (has_norm) {
    wait(&scales_known, 0);
    scale[0] = scales[row], scale[1] = scales[row + 8];
  }
  sync_named(1, kConsumers);  // all have read the ring
#pragma unroll
  for (int eight = 0; eight < kCount / 8; ++eight) {
    const int at = eight * 8 + pair;
    if (at >= width) break;
    float gate_bias[2] = {}, up_bias[2] = {};
    if (out.bias != nullptr && column + at < out.columns) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        gate_bias[i] = load_float(out.bias, out.bias_dtype, column + at + i);
        up_bias[i] = load_float(out.bias, out.bias_dtype, out.columns + column + at + i);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* gate = &sums[8 * eight + 2 * half];
      const float *up = gate + 4, by = scale[half];
      *reinterpret_cast<uint32_t*>(panel + (row + 8 * half) * pitch + at) =
          gated<T>(gate[0] * by + gate_bias[0], gate[1] * by + gate_bias[1],
                   up[0] * by + up_bias[0], up[1] * by + up_bias[1]);
    }
  }
  sync_named(1, kConsumers);
  const int eights = width / 8;
#pragma unroll 1
  for (int i = thread; i < out.rows * eights; i += kConsumers) {
    const int of = i / eights, at = i % eights * 8;
    if (column + at >= out.columns) continue;
    *reinterpret_cast<uint4*>(static_cast<T*>(out.y) + int64_t{of} * out.columns + column + at) =
        *reinterpret_cast<const uint4*>(panel + of * pitch + at);
  }
#endif
}

template <typename T, int kCount>
void launch_gate(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
                 const SplitNorm& norm) {
  const auto kernel = gate_kernel<T, kCount>;
  const TensorView &x = p.linear.x, &weight = p.linear.weight;
  // What lies behind a stripe of fewer rows than the kernel's is multiplied, too, for nobody.
  const int slot_bytes = (plan.rows + kMaxRows) * kDepth * 2;
  const int behind = (2 * kCount - plan.rows) * kDepth * 2;
  const int slots =
      std::clamp((kRingBytes[plan.per_multiprocessor] - behind) / slot_bytes, 2, kMaxSlots);
  const int bytes = slots * slot_bytes + behind + 1024;
  allow_shared_bytes(kernel, bytes);
  const ProductOutput out = output_of(p);
  const int width = plan.rows / 2, stripes = (out.columns + width - 1) / width;
  const int window = kWindowBytes[plan.per_multiprocessor] / (plan.rows * kDepth * 2);
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(stripes)),
          .block = dim3(kConsumers + kProducers + (norm.squares != nullptr ? kScalers : 0)),
          .shared_bytes = static_cast<size_t>(bytes)},
         context, tensor_map_of_halves(weight, plan.rows),
         tensor_map(x, box_rows(out.rows, kMaxRows), kDepth), out,
         GateArgs{.rows = plan.rows,
                  .chunks = static_cast<int>((x.shape[1] + kDepth - 1) / kDepth),
                  .slots = slots,
                  .window = std::clamp(window, 1, slots),
                  .depth = static_cast<int>(x.shape[1]),
                  .norm = norm});
}

/// Whether launch is for these.
inline bool suits(const FusedProductParams& p, const StripePlan& plan) {
  constexpr int kFewRows = 32;  // of which the tensor core's left side would be half zeros
  return p.is_gated && !p.residual && plan.split == 1 && p.linear.x.shape[0] > kFewRows;
}

/// What stripe_product asks for, of T, where it suits.
template <typename T>
void launch(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
            const SplitNorm& norm) {
  if (plan.rows <= 112) return launch_gate<T, 56>(p, plan, context, norm);
  launch_gate<T, 64>(p, plan, context, norm);
}

}  // namespace inflight::cuda::gate_stripe
