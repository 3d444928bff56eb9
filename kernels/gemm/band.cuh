// 33 to 64 rows of x on Hopper, of weights that are many for a slice (slice.cuh) and few for a
// stripe (stripe.cuh) to each multiprocessor, as an 8B's attention and down projections: bands of
// up to 256 weight rows, whose depth four thread blocks of a cluster share.
//
// A multiprocessor by itself takes in no more than some 70 bytes a nanosecond, and x counts like
// weights: a tile of 64 weight rows and 64 of x needs all of it to keep up with the memory. So
// bands are as wide as makes one to each cluster that there is room for, with a multiprocessor to
// each of its blocks: two on one would end last.
//
// Parts of a divided depth go to the same lanes of the block that finishes their weight rows, and
// are added in an order that depends on the column alone: a row's bits depend neither on timing nor
// on the other rows. The ring's place then turns columns of sums into rows of y.
//
// A norm between two such products, or between one and a gate by stripes, lies in both (SplitNorm,
// products.h).
#pragma once

#include <algorithm>

#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/norm.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"
#include "kernels/gemm/tensor_map.h"
#include "kernels/gemm/weight_ring.cuh"

namespace inflight::cuda::band {

using ring::Cursor, ring::kDepth, ring::kMaxSlots, ring::kProducers, ring::WeightRing;

inline constexpr int kSplit = kBandSplit;
inline constexpr int kRingBytes = 223 << 10;  // of shared memory
/// Of weights on their way. Measured in layers of an 8B: 80 KB are 1 us behind, 104 KB 3, a slot
/// less 4.
inline constexpr int kWindowBytes = 64 << 10;
inline constexpr int kMaxRows = 64;  // of x
inline constexpr int kScalers = 64;  // threads

/// Where the part of thread block number `part` of a cluster begins in `count` chunks of depth or
/// blocks of 16 weight rows. (Computed: an array of parameters indexed by what only the block knows
/// is copied to local memory first, by each thread: 3 us a launch behind a memory that is busy.)
__host__ __device__ constexpr int begin_of(int part, int count) { return count * part / kSplit; }

struct BandArgs {
  int rows;    // of weights, in a band
  int chunks;  // of depth
  int slots;
  int window;  // slots of weights on their way at most
  int depth;   // elements
  SplitNorms norms;
};

/// Grid: kSplit blocks to each band, of a warpgroup to 64 weight rows and two warps that copy; with
/// a norm two more that find its scales.
template <typename T, int kRows, int kGroups, bool kAdds>
__global__ void __launch_bounds__(kGroups * 128 + kProducers + kScalers, 1)
    band_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap x,
                const ProductOutput out, const BandArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kConsumers = kGroups * 128;
  constexpr int kBlockParts = kRows / 8 * 32;  // fours of sums of a block of 16 weight rows
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t weights_full[kMaxSlots], x_full[kMaxSlots], empty[kMaxSlots], parts_full,
      scales_known;
  __shared__ float scales[kRows];  // of x's rows

  const int part = cluster_rank();
  const int column = cluster_index() * args.rows;
  const int begin = begin_of(part, args.chunks), count = begin_of(part + 1, args.chunks) - begin;
  const int all_blocks = args.rows / 16;
  const int first_block = begin_of(part, all_blocks),
            blocks = begin_of(part + 1, all_blocks) - first_block;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int weight_bytes = args.rows * kDepth * 2;  // of a chunk
  // Behind the ring: the other blocks' parts of what ends here, [kSplit - 1][blocks][kBlockParts].
  // In its place, when all have read it: sums, [kRows][pitch].
  float4* parts =
      reinterpret_cast<float4*>(shared + args.slots * (weight_bytes + kRows * kDepth * 2));
  float* panel = reinterpret_cast<float*>(shared);
  const int pitch = blocks * 16 + 4;

  const bool has_norm = args.norms.x.squares != nullptr;
  const SplitNorm& norm = args.norms.y;

  const WeightRing<T, kRows, 1> ring{.weights = weights,
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
                                     .is_gated = false};

  let_next_start();
  const uint64_t policy = read_once_policy();
  const int early = min(count, args.window);
  if (thread == kConsumers) {
    ring.init(kConsumers / 32);
    init_barrier(&parts_full, 1);
    init_barrier(&scales_known, kScalers);
    publish_barriers();
    arrive_expecting(&parts_full, (kSplit - 1) * blocks * kBlockParts * 16);
    ring.start(early, policy);
  }
  __syncthreads();
  // That barriers are there in all of the cluster counts when the first part is sent.
  arrive_at_cluster();

  if (warp == kConsumers / 32) {
    if (lane == 0) ring.feed_weights(early, policy);
    return;
  }
  if (warp > kConsumers / 32 + 1) {
    wait_for_previous();
    find_scales(scales, args.norms.x, out.rows, args.depth, warp - kConsumers / 32 - 2,
                kScalers / 32);
    arrive(&scales_known);
    return;
  }
  if (warp > kConsumers / 32) {
    if (lane == 0) ring.feed_x();
    return;
  }

  // This warp's block of weight rows. Where the band ends within a warpgroup's rows, the last warps
  // multiply what lies behind it, for nobody.
  const int block = warp, row_of = lane / 4, pair = lane % 4 * 2;
  int owner = 0;
#pragma unroll 1
  while (owner < kSplit - 1 && block >= begin_of(owner + 1, all_blocks)) ++owner;
  const int in_owner = block - begin_of(owner, all_blocks);
  const bool is_there = block < all_blocks, is_ours = is_there && owner == part;

  // What comes last is moved eight elements at a time; of this block's rows of y each thread has
  // eight at most.
  const int eights = blocks * 2, row = thread / eights, eight = thread % eights;
  const int at = column + first_block * 16 + eight * 8;
  const int64_t to = int64_t{row} * out.columns + at;
  const bool is_here = row < out.rows && at < out.columns;

  float sums[kRows / 2] = {};
  uint4 residual{};
  Cursor from(args.slots, 0);
#pragma unroll 1
  for (int step = 0; step < count; ++step, from.advance()) {
    wait(&x_full[from.slot], from.parity);
    if constexpr (kAdds) {
      // What x comes from has ended: residuals are there. They are read now and added last.
      if (step == 0 && is_here)
        residual = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(out.residual) + to));
    }
    wait(&weights_full[from.slot], from.parity);
    ring.add_products(sums, from.slot, warp / 4 * (64 * 128));
  }

  wait_for_cluster();
  if (is_there && !is_ours) {
    const int of_owner = begin_of(owner + 1, all_blocks) - begin_of(owner, all_blocks);
    const float4* there =
        parts + ((part - (part > owner)) * of_owner + in_owner) * kBlockParts + lane;
    const uint32_t to = remote_address(shared_address(there), owner);
    const uint32_t barrier = remote_address(shared_address(&parts_full), owner);
#pragma unroll
    for (int i = 0; i < kRows / 8; ++i) send_four(to + i * 512, &sums[4 * i], barrier);
  }
  wait(&parts_full, 0);
  sync_named(1, kConsumers);  // all have read the ring
  if (is_ours) {
#pragma unroll
    for (int peer = 0; peer < kSplit - 1; ++peer) {
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        const float4 p = parts[(peer * blocks + in_owner) * kBlockParts + i * 32 + lane];
        sums[4 * i] += p.x, sums[4 * i + 1] += p.y, sums[4 * i + 2] += p.z, sums[4 * i + 3] += p.w;
      }
    }
#pragma unroll
    for (int i = 0; i < kRows / 8; ++i) {
      float* to = panel + (i * 8 + pair) * pitch + in_owner * 16 + row_of;
      to[0] = sums[4 * i], to[pitch] = sums[4 * i + 1];
      to[8] = sums[4 * i + 2], to[pitch + 8] = sums[4 * i + 3];
    }
  }
  if (has_norm) wait(&scales_known, 0);
  sync_named(1, kConsumers);

  uint4 values{};
  if (is_here) {
    const auto* fours = reinterpret_cast<const float4*>(panel + row * pitch + eight * 8);
    const float4 low = fours[0], high = fours[1];
    float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if (has_norm) {
#pragma unroll
      for (float& value : v) value *= scales[row];
    }
    if (out.bias != nullptr) {
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += load_float(out.bias, out.bias_dtype, at + i);
    }
    uint32_t words[4];
    const uint32_t added[] = {residual.x, residual.y, residual.z, residual.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = pack(T(), v[2 * i], v[2 * i + 1]);
      if constexpr (kAdds) {
        const float2 a = unpack(T(), words[i]), b = unpack(T(), added[i]);
        words[i] = pack(T(), a.x + b.x, a.y + b.y);
      }
    }
    values = {words[0], words[1], words[2], words[3]};
    *reinterpret_cast<uint4*>(static_cast<T*>(out.y) + to) = values;
  }
  if constexpr (kAdds && std::is_same_v<T, __nv_bfloat16>) {
    if (norm.squares == nullptr) return;
    float squares = 0;
    if (is_here) {
      const uint4 by = *reinterpret_cast<const uint4*>(static_cast<const T*>(norm.weight) + at);
      *reinterpret_cast<uint4*>(static_cast<T*>(norm.scaled) + to) = scaled(values, by);
      squares = sum_of_squares(values);
    }
    squares += __shfl_xor_sync(0xffffffff, squares, 1);  // two lanes have a row's 16 columns
    if (is_here && lane % 2 == 0) *squares_at(norm, row, at / 16) = squares;
  }
#endif
}

/// Kernels for bands of 129 to 192 weight rows and of 193 to 256.
inline constexpr int kLeastGroups = 3, kMostGroups = 4;

template <typename T, int kRows, int kGroups, bool kAdds>
void launch_bands(const FusedProductParams& p, int rows, const OpContext& context,
                  const SplitNorms& norms) {
  const auto kernel = band_kernel<T, kRows, kGroups, kAdds>;
  const TensorView &x = p.linear.x, &weight = p.linear.weight;
  const ProductOutput out = output_of(p);
  const auto depth = static_cast<int>(x.shape[1]);
  BandArgs args{.rows = rows,
                .chunks = (depth + kDepth - 1) / kDepth,
                .slots = 0,
                .window = 0,
                .depth = depth,
                .norms = norms};
  const int slot_bytes = (rows + kRows) * kDepth * 2;
  const int most_blocks = (rows / 16 + kSplit - 1) / kSplit;
  // What lies behind a band that ends within a warpgroup's rows is read, too.
  const int behind =
      std::max((kSplit - 1) * most_blocks * kRows * 64, (kGroups * 64 - rows) * kDepth * 2);
  args.slots = std::clamp((kRingBytes - behind) / slot_bytes, 2, kMaxSlots);
  args.window = std::clamp(kWindowBytes / (rows * kDepth * 2), 1, args.slots);
  const int bytes = args.slots * slot_bytes + behind + 1024;
  allow_shared_bytes(kernel, bytes);
  const int bands = (out.columns + rows - 1) / rows;
  const int scalers = norms.x.squares != nullptr ? kScalers : 0;
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(bands * kSplit)),
          .block = dim3(kGroups * 128 + kProducers + scalers),
          .shared_bytes = static_cast<size_t>(bytes),
          .cluster = kSplit},
         context, tensor_map(weight, rows, kDepth),
         tensor_map(x, box_rows(out.rows, kRows), kDepth), out, args);
}

/// What band_product asks for, of T.
template <typename T>
void launch(const FusedProductParams& p, int rows, const OpContext& context,
            const SplitNorms& norms) {
  const bool adds = static_cast<bool>(p.residual);
  if (rows <= kLeastGroups * 64)
    return adds ? launch_bands<T, kMaxRows, kLeastGroups, true>(p, rows, context, norms)
                : launch_bands<T, kMaxRows, kLeastGroups, false>(p, rows, context, norms);
  adds ? launch_bands<T, kMaxRows, kMostGroups, true>(p, rows, context, norms)
       : launch_bands<T, kMaxRows, kMostGroups, false>(p, rows, context, norms);
}

/// Clusters that run at once with a multiprocessor to each block.
template <typename T>
int num_clusters() {
  const auto kernel = band_kernel<T, kMaxRows, kMostGroups, false>;
  allow_shared_bytes(kernel, kRingBytes + 1024);
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kSplit;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kSplit);
  config.blockDim = dim3(kMostGroups * 128 + kProducers + kScalers);
  config.dynamicSmemBytes = kRingBytes + 1024;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&count, kernel, &config),
             "cudaOccupancyMaxActiveClusters");
  return count;
}

}  // namespace inflight::cuda::band
