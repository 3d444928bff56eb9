// Up to 64 rows of x on Hopper, of weights that are few for a stripe (stripe.cuh) to each
// multiprocessor, as a 1B's: slices of 64 weight rows, one tile of a warpgroup, whose depth the
// thread blocks of a cluster share. Rings are of half the shared memory, so that the next kernel's
// fills beside this one.
//
// Parts of a divided depth go to the same lanes of another block and are added in an order that
// depends on the column alone: a row's bits depend neither on timing nor on the other rows. The
// ring's place then turns columns of sums into rows of y.
//
// What runs before the first copy and after the last sum runs once, from instruction caches that
// other kernels have had meanwhile: of a product of 3 us, 1 to 2. There is little of it, no
// division, and nothing unrolled that is not short.
//
// A norm between two such products lies in both (SplitNorm, products.h).
#pragma once

#include <algorithm>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/gate.cuh"
#include "kernels/gemm/norm.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"
#include "kernels/gemm/tensor_map.h"
#include "kernels/gemm/weight_ring.cuh"

namespace inflight::cuda::slice {

using ring::Cursor, ring::kDepth, ring::kMaxSlots, ring::kProducers, ring::kUnit, ring::WeightRing;

inline constexpr int kWeightRows = kSliceRows;
inline constexpr int kMaxSplit = 4;
// A ring as stripes' of two a place, and fewer copies on their way: x comes beside them.
inline constexpr int kRingBytes = 111 << 10, kWindowBytes = 32 << 10;
inline constexpr int kConsumers = 128, kScalers = 64;          // threads
inline constexpr int kWeightBytes = kWeightRows * kDepth * 2;  // of a chunk
inline constexpr int kNormParts = kConsumers / 32;             // of a slice
inline constexpr int kSumsPitch = 20;  // floats of a row of 16: a warp's stores meet no bank twice

constexpr int chunks_of(int rows) { return rows == 64 ? 1 : 2; }  // in a slot
constexpr int slot_bytes(int rows) { return chunks_of(rows) * (kWeightRows + rows) * kDepth * 2; }

struct SliceArgs {
  int split;                  // thread blocks of a cluster
  int blocks;                 // of 16 weight rows, whose sums end in a thread block
  int begins[kMaxSplit + 1];  // chunks of depth: where each thread block's begin, and the end
  int slots;
  int window;  // slots of weights on their way at most
  int depth;   // elements
  SplitNorms norms;
};

/// Grid: split blocks to each slice, of a warpgroup and two warps that copy; with a norm two more
/// that find its scales. A gated slice has 8 rows of the gate, 8 of up, in turns.
template <typename T, int kRows, bool kAdds>
__global__ void __launch_bounds__(kConsumers + kProducers + kScalers, 2)
    slice_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap x,
                 const ProductOutput out, const __grid_constant__ SliceArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kChunks = chunks_of(kRows), kSlotBytes = slot_bytes(kRows);
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t weights_full[kMaxSlots], x_full[kMaxSlots], empty[kMaxSlots], parts_full,
      scales_known;
  __shared__ float scales[kRows];  // of x's rows

  const int part = cluster_rank(), slice = cluster_index();
  const int column = slice * (out.is_gated ? kWeightRows / 2 : kWeightRows);
  const int begin = args.begins[part];
  const int count = (args.begins[part + 1] - begin + kChunks - 1) / kChunks;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  // Blocks of 16 weight rows, one a warp, whose sums end here. Behind the ring: other parts of
  // them, [split - 1][blocks][kRows / 8][32 lanes] of four, and residuals, [blocks][kRows][16].
  const int blocks = args.blocks;
  float4* parts = reinterpret_cast<float4*>(shared + args.slots * kSlotBytes);
  const int parts_of_peer = blocks * (kRows / 8) * 32;
  auto* tiles = reinterpret_cast<T*>(parts + (args.split - 1) * parts_of_peer);

  const bool has_norm = args.norms.x.squares != nullptr;
  const SplitNorm& norm = args.norms.y;

  const WeightRing<T, kRows, kChunks> ring{.weights = weights,
                                           .x = x,
                                           .weights_full = weights_full,
                                           .x_full = x_full,
                                           .empty = empty,
                                           .slots_at = shared,
                                           .slots = args.slots,
                                           .window = args.window,
                                           .weight_bytes = kWeightBytes,
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
  if (warp > kConsumers / 32 + 1) {
    if (has_norm) {
      wait_for_previous();
      find_scales(scales, args.norms.x, out.rows, args.depth, warp - kConsumers / 32 - 2,
                  kScalers / 32);
      arrive(&scales_known);
    }
    return;
  }
  if (warp > kConsumers / 32) {
    if (lane == 0) ring.feed_x();
    return;
  }

  // This warp's block of weight rows.
  const int block = warp, row_of = lane / 4, pair = lane % 4 * 2;
  const int width = out.is_gated ? 8 : 16;  // of y
  const int first = column + block * width;
  int owner = 0, in_owner = block;  // who finishes it, as which of its blocks
#pragma unroll 1
  for (; in_owner >= blocks; ++owner) in_owner -= blocks;
  const bool is_ours = owner == part;

  // What comes last is moved eight elements at a time: this lane's are columns `at` on of every
  // `apart`th row.
  T* tile = tiles + in_owner * kRows * 16;
  const int eights = width / 8, at = first + lane % eights * 8, apart = 32 / eights;
  const bool is_at = at < out.columns;
  float bias = 0;  // of the lane's weight row
  if (out.bias != nullptr && is_ours && lane < 16) {
    const int place = first + lane % width;
    if (place < out.columns)
      bias = load_float(out.bias, out.bias_dtype, place + lane / width * out.columns);
  }

  float sums[kRows / 2] = {};
  Cursor from(args.slots, 0);
#pragma unroll 1
  for (int step = 0; step < count; ++step, from.advance()) {
    wait(&x_full[from.slot], from.parity);
    if constexpr (kAdds) {
      // What x comes from has ended: residuals are there. They are read now and added last.
      if (step == 0 && is_ours && is_at) {
        const T* source = static_cast<const T*>(out.residual) + at;
#pragma unroll 1
        for (int row = lane / eights; row < out.rows; row += apart)
          copy_async(shared_address(tile + row * width + at - first),
                     source + int64_t{row} * out.columns);
      }
    }
    wait(&weights_full[from.slot], from.parity);
    ring.add_products(sums, from.slot);
  }

  const int at_block = in_owner * (kRows / 8) * 32 + lane;
  if (args.split > 1) {
    if (!is_ours) {
      const float4* there = parts + (part - (part > owner)) * parts_of_peer + at_block;
      const uint32_t to = remote_address(shared_address(there), owner);
      const uint32_t barrier = remote_address(shared_address(&parts_full), owner);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) send_four(to + i * 512, &sums[4 * i], barrier);
    }
    wait(&parts_full, 0);
#pragma unroll 1
    for (int peer = is_ours ? 1 : args.split; peer < args.split; ++peer) {
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        const float4 p = parts[(peer - 1) * parts_of_peer + at_block + i * 32];
        sums[4 * i] += p.x, sums[4 * i + 1] += p.y, sums[4 * i + 2] += p.z, sums[4 * i + 3] += p.w;
      }
    }
  }
  if constexpr (kAdds) wait_all_copies();
  // All have read the ring: its place is the sums' now, [kRows][16] and the biases of each block.
  sync_named(1, kConsumers);
  if (!is_ours) return;
  if (has_norm) wait(&scales_known, 0);
  float* block_sums = reinterpret_cast<float*>(shared) + in_owner * (kRows + 1) * kSumsPitch;
#pragma unroll
  for (int i = 0; i < kRows / 8; ++i) {
    float* to = block_sums + (i * 8 + pair) * kSumsPitch + row_of;
    to[0] = sums[4 * i], to[kSumsPitch] = sums[4 * i + 1];
    to[8] = sums[4 * i + 2], to[kSumsPitch + 8] = sums[4 * i + 3];
  }
  if (lane < 16) block_sums[kRows * kSumsPitch + lane] = bias;
  __syncwarp();
  const bool leaves_norm = kAdds && std::is_same_v<T, __nv_bfloat16> && norm.squares != nullptr;
  uint4 norm_weight{};
  if (leaves_norm && is_at)
    norm_weight = *reinterpret_cast<const uint4*>(static_cast<const T*>(norm.weight) + at);
  const int norm_part = slice * kNormParts + block;
  const int offset = out.is_gated ? 0 : lane % 2 * 8;
  // Whole warps: the lanes of a row add its squares.
#pragma unroll 1
  for (int row = lane / eights; row - lane / eights < out.rows; row += apart) {
    // A warp looks at 32 rows of a gated block at once: beyond the last it reads that one again,
    // not the next warp's sums.
    const int read = min(row, kRows - 1);
    // Eight sums; of a gated block eight of the gate, eight of up.
    const auto load_eight = [&](float (&v)[8], int from) {
      const auto fours = [&](int of_row) {
        return reinterpret_cast<const float4*>(block_sums + of_row * kSumsPitch + from);
      };
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float4 s = fours(read)[i];
        v[4 * i] = s.x, v[4 * i + 1] = s.y, v[4 * i + 2] = s.z, v[4 * i + 3] = s.w;
      }
      if (has_norm) {
#pragma unroll
        for (float& value : v) value *= scales[read];
      }
      if (out.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 b = fours(kRows)[i];
          v[4 * i] += b.x, v[4 * i + 1] += b.y, v[4 * i + 2] += b.z, v[4 * i + 3] += b.w;
        }
      }
    };
    const bool is_here = row < out.rows && is_at;
    float v[8];
    uint32_t words[4];
    load_eight(v, offset);
    if (out.is_gated) {
      float up[8];
      load_eight(up, 8);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] = gated<T>(v[2 * i], v[2 * i + 1], up[2 * i], up[2 * i + 1]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = pack(T(), v[2 * i], v[2 * i + 1]);
    }
    if constexpr (kAdds) {
      // Its own copies, which it has waited for.
      const uint4 r = *reinterpret_cast<const uint4*>(tile + row * width + at - first);
      const uint32_t residual[] = {r.x, r.y, r.z, r.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = unpack(T(), words[i]), b = unpack(T(), residual[i]);
        words[i] = pack(T(), a.x + b.x, a.y + b.y);
      }
    }
    const int64_t to = int64_t{row} * out.columns + at;
    const uint4 values{words[0], words[1], words[2], words[3]};
    if (is_here) *reinterpret_cast<uint4*>(static_cast<T*>(out.y) + to) = values;
    if (leaves_norm) {
      if (is_here)
        *reinterpret_cast<uint4*>(static_cast<T*>(norm.scaled) + to) = scaled(values, norm_weight);
      float squares = is_here ? sum_of_squares(values) : 0;
      if (eights > 1) squares += __shfl_xor_sync(0xffffffff, squares, 1);
      if (row < out.rows && lane % eights == 0) *squares_at(norm, row, norm_part) = squares;
    }
  }
#endif
}

template <typename T, int kRows, bool kAdds>
void launch_slices(const FusedProductParams& p, int split, const OpContext& context,
                   const SplitNorms& norms) {
  const auto kernel = slice_kernel<T, kRows, kAdds>;
  const TensorView &x = p.linear.x, &weight = p.linear.weight;
  const int blocks = kNormParts / split;
  const int behind = (split - 1) * blocks * kRows * 64 + (kAdds ? blocks * kRows * 32 : 0);
  const int slots = std::clamp((kRingBytes - behind) / slot_bytes(kRows), 2, kMaxSlots);
  const int bytes = slots * slot_bytes(kRows) + behind + 1024;
  allow_shared_bytes(kernel, bytes);
  const ProductOutput out = output_of(p);
  const int width = p.is_gated ? kWeightRows / 2 : kWeightRows;
  const int slices = (out.columns + width - 1) / width;
  SliceArgs args{.split = split,
                 .blocks = blocks,
                 .slots = slots,
                 .window = std::clamp(kWindowBytes / (chunks_of(kRows) * kWeightBytes), 1, slots),
                 .depth = static_cast<int>(x.shape[1]),
                 .norms = norms};
  const int chunks = (args.depth + kDepth - 1) / kDepth, units = (chunks + kUnit - 1) / kUnit;
  for (int part = 0; part <= split; ++part)
    args.begins[part] = std::min(units * part / split * kUnit, chunks);
  const int scalers = norms.x.squares != nullptr ? kScalers : 0;
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(slices * split)),
          .block = dim3(kConsumers + kProducers + scalers),
          .shared_bytes = static_cast<size_t>(bytes),
          .cluster = split},
         context,
         p.is_gated ? tensor_map_of_halves(weight, kWeightRows)
                    : tensor_map(weight, kWeightRows, kDepth),
         tensor_map(x, box_rows(out.rows, kRows), kDepth), out, args);
}

template <typename T, int kRows>
void launch_rows(const FusedProductParams& p, int split, const OpContext& context,
                 const SplitNorms& norms) {
  if (p.residual) return launch_slices<T, kRows, true>(p, split, context, norms);
  launch_slices<T, kRows, false>(p, split, context, norms);
}

/// What slice_product asks for, of T.
template <typename T>
void launch(const FusedProductParams& p, int split, const OpContext& context,
            const SplitNorms& norms) {
  const int64_t rows = p.linear.x.shape[0];
  if (rows <= 16) return launch_rows<T, 16>(p, split, context, norms);
  if (rows <= 32) return launch_rows<T, 32>(p, split, context, norms);
  launch_rows<T, 64>(p, split, context, norms);
}

}  // namespace inflight::cuda::slice
