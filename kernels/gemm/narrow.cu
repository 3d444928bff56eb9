// At most 8 rows of x on Hopper: one linear, or several of which each reads what those before it
// make, in one grid of a thread block to a multiprocessor. A block owns whole columns of y; each of
// its consumer warps multiplies its share of their depth with x (mma.sync). No warp waits for
// another before a tile's sums are added, in a fixed order: a row's bits depend neither on timing
// nor on other rows.
// A producer warp fills the consumers' rings, linear after linear, and never waits for x: weights
// do not change. It keeps only a window of copies on their way: behind more of them everything else
// that goes to memory would wait, x and the blocks' news of each other among it, while the ring
// must be deep enough to keep the memory busy for as long as the blocks wait for each other.
// RMS norm: y = (x * g) W^T * 1 / sqrt(mean(x^2) + epsilon).
#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/narrow_feed.cuh"
#include "kernels/gemm/narrow_multiply.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {
namespace narrow {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// x of a link for the products: all of it, kept, or some slots' worth ahead.
template <typename T>
struct Steps {
  const WarpX<T>& x;
  bool keeps_x;
  int left;  // slots' worth of x that are still to be copied
  int step = 0, buffer = 0;

  __device__ __forceinline__ void copy_next(int to) {
    if (left == 0) return commit_copies();
    x.copy_step(to, step);
    --left;
    if (++step == x.steps) step = 0;
  }
  __device__ __forceinline__ int begin(int of) const {
    if (keeps_x) return of;
    wait_copies<kXAhead - 1>();
    return buffer;
  }
  __device__ __forceinline__ void end() {
    if (keeps_x) return;
    copy_next(buffer);
    buffer = (buffer + 1) % kXAhead;
  }
};

/// A warp's part of all tiles of a link that are this block's.
template <typename T>
__device__ __forceinline__ void consume(const Args& args, int index, Shared& shared, Ring& ring,
                                        int& turn, uint32_t xs, uint32_t gs, float* all_parts) {
  constexpr DType kType = std::is_same_v<T, __nv_bfloat16> ? DType::kBFloat16 : DType::kFloat16;
  const Link& link = shared.links[index];
  const ProductOutput out = link.out;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int rows = out.rows, width = link.width, tiles = link.tiles, depth = link.depth;
  const int groups = link.groups;
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const bool is_normed = std::is_same_v<T, __nv_bfloat16> && link.norm_weight != nullptr;
  const bool keeps_x = link.keeps_x;
  const int of_row = lane / 4 < rows ? lane / 4 : 0;
  const WarpX<T> x{.address = xs,
                   .g = gs,
                   .x = static_cast<const T*>(link.x) + int64_t{of_row} * depth,
                   .rows = rows,
                   .depth = depth,
                   .steps = link.steps,
                   .shift = groups == 2 ? 1 : 0,
                   .row = lane / 4,
                   .quarter = lane % 4,
                   .warp = warp,
                   .lane = lane};
  // Elements of a tile's y that this thread finishes.
  constexpr int kMine = kRows * 4 * kGroupColumns / kConsumers;
  int row_of[kMine], at_of[kMine];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    row_of[i] = (thread + i * kConsumers) / width;
    at_of[i] = thread + i * kConsumers - row_of[i] * width;
  }
  Steps<T> steps{
      .x = x, .keeps_x = keeps_x, .left = (tiles - block + blocks - 1) / blocks * x.steps};

  if (is_normed) x.copy_norm_weight(static_cast<const T*>(link.norm_weight));
  if (index == 0) {
    wait_for_previous();
  } else {
    wait(&shared.ready[index], 0);
  }
  if (keeps_x) {
    x.copy_all();
    wait_copies<0>();
    __syncwarp();
    if (is_normed) {
      x.scale_all([&](int row, float squares) {
        if (lane == 0) shared.squares[index][warp][row] = squares;
      });
      __syncwarp();
    }
  } else {
    for (int i = 0; i < kXAhead; ++i) steps.copy_next(i);
  }

  for (int tile = block; tile < tiles; tile += blocks) {
    Additions<1> additions[kMine];
#pragma unroll
    for (int i = 0; i < kMine; ++i)
      additions[i] = load_additions<1>(out, row_of[i], tile * width + at_of[i]);
    // Those of the tile before are still being read.
    float* parts = all_parts + turn * kWarps * rows * kPartColumns;
    float* part = parts + warp * rows * kPartColumns;
    turn ^= 1;
    switch (groups) {
      case 2:
        multiply<T, 2>(x, steps, out.is_gated, shared, ring, part);
        break;
      case 3:
        multiply<T, 3>(x, steps, out.is_gated, shared, ring, part);
        break;
      default:
        multiply<T, 4>(x, steps, out.is_gated, shared, ring, part);
    }
    meet<1>(kConsumers);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int row = row_of[i], at = at_of[i], column = tile * width + at;
      if (row >= rows || column >= out.columns) continue;
      float sum[1] = {}, up[1] = {};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum[0] += parts[(w * rows + row) * kPartColumns + at];
      if (out.is_gated) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w)
          up[0] += parts[(w * rows + row) * kPartColumns + at + width];
      }
      if (is_normed) {
        float squares = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) squares += shared.squares[index][w][row];
        const float scale = norm_scale(squares, depth, link.epsilon);
        sum[0] *= scale;
        up[0] *= scale;
      }
      if (out.y_dtype == kType) {
        const T value = finished<T>(out, sum[0], up[0], additions[i]);
        static_cast<T*>(out.y)[int64_t{row} * out.columns + column] = value;
      } else {
        store_finished<1>(out, row, column, sum, up, additions[i]);
      }
    }
  }
  if (index + 1 == args.num_links) return;
  const int finishers = min(kConsumers, (rows * width + 31) / 32 * 32);
  if (thread < finishers) {
    constexpr int kAtOnce = 8 / kMine;
    uint32_t all = 0;
    for (int first = block; first < tiles; first += blocks * kAtOnce) {
      uint32_t bits[kAtOnce * kMine] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce * kMine; ++i) {
        const int row = row_of[i % kMine], tile = first + i / kMine * blocks,
                  column = tile * width + at_of[i % kMine];
        if (tile < tiles && row < rows && column < out.columns)
          bits[i] = load_back(static_cast<const T*>(out.y) + int64_t{row} * out.columns + column);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce * kMine; ++i) all |= bits[i];
    }
    if (all > 0xffff) asm volatile("trap;");  // never: waits for the loads
    if (finishers > 32) {
      meet<2>(finishers);
    } else {
      __syncwarp();
    }
    if (thread == 0) raise(&args.counters[index]);
  }
}

#endif

/// Blocks take a link's tiles in turn. Those of a grid of several links wait for each other, which
/// narrow.cuh says why they may.
template <typename T>
__global__ void __launch_bounds__(kThreads, 1) narrow_kernel(const __grid_constant__ Args args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t unaligned[];
  uint8_t* slots = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ Shared shared;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) let_next_start();
  if (warp == kWarps) {
    // Nothing must keep the first copies waiting.
    if (lane < kWarps) {
      for (int slot = 0; slot < args.slots; ++slot) {
        init_barrier(&shared.full[lane][slot], 1);
        init_barrier(&shared.empty[lane][slot], 1);
      }
    } else if (lane - kWarps < args.num_links) {
      init_barrier(&shared.ready[lane - kWarps], 1);
    }
    publish_barriers();
    __syncwarp();
    pass<3>(kThreads);
  } else {
    if (lane == 0 && warp < args.num_links) {
      shared.links[warp] = args.links[warp];
      prefetch_map(args.weights[warp]);
    }
    meet<3>(kThreads);
  }

  if (warp == kWarps) {
    if (lane < kWarps) produce(args, shared, slots, lane);
  } else if (warp > kWarps) {
    if (lane == 0) watch(args, shared);
  } else {
    Ring ring{shared_address(slots + warp * args.slots * kSlotBytes), args.slots, args.zero};
    const uint32_t xs =
        shared_address(slots + kWarps * args.slots * kSlotBytes) + warp * args.x_bytes;
    const uint32_t gs = shared_address(slots + kWarps * (args.slots * kSlotBytes + args.x_bytes)) +
                        warp * args.g_bytes;
    auto* parts = reinterpret_cast<float*>(
        slots + kWarps * (args.slots * kSlotBytes + args.x_bytes + args.g_bytes));
    int turn = 0;
    for (int i = 0; i < args.num_links; ++i) consume<T>(args, i, shared, ring, turn, xs, gs, parts);
  }
#endif
}

Link link_of(const FusedProductParams& p, int groups) {
  const ProductOutput out = output_of(p);
  const int width = groups * kGroupColumns / (p.is_gated ? 2 : 1);
  const auto depth = static_cast<int>(p.linear.x.shape[1]);
  const int step_depth = chunks_of(groups) * 64 * kWarps;
  return {.out = out,
          .x = p.linear.x.data,
          .norm_weight = p.norm_weight.data,
          .epsilon = p.epsilon,
          .depth = depth,
          .steps = (depth + step_depth - 1) / step_depth,
          .groups = groups,
          .width = width,
          .tiles = (out.columns + width - 1) / width,
          .keeps_x = false};
}

template <typename T>
void run(std::span<const FusedProductParams> products, const NarrowPlan& plan,
         const OpContext& context) {
  Args args{};
  args.num_links = static_cast<int>(products.size());
  args.counters = context.counters;
  int tiles = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const FusedProductParams& p = products[i];
    const int groups = narrow_groups(p.linear.y.shape[1], p.is_gated, plan.max_blocks);
    Link& link = args.links[i] = link_of(p, groups);
    args.weights[i] = tensor_map_of_chunks(p.linear.weight, link.width, chunks_of(groups));
    const int slot = chunks_of(groups) * 128, all_x = link.steps * slot * link.out.rows;
    const int some_x = kXAhead * slot * link.out.rows;
    link.keeps_x = p.norm_weight || all_x <= std::max(plan.x_bytes / kWarps, some_x);
    args.x_bytes = std::max(args.x_bytes, link.keeps_x ? all_x : some_x);
    if (p.norm_weight) args.g_bytes = std::max(args.g_bytes, link.steps * slot);
    tiles = std::max(tiles, link.tiles);
  }
  const int part_bytes =
      2 * args.links[0].out.rows * kPartColumns * static_cast<int>(sizeof(float));
  const int apart = 1024 + kWarps * (args.x_bytes + args.g_bytes + part_bytes);
  constexpr int kRoom = (227 << 10) - 4096;
  args.slots = std::clamp((std::min(plan.shared_bytes, kRoom) - apart) / (kWarps * kSlotBytes), 1,
                          kMaxSlots);
  // A copy of the same round of another warp may have come and gone when it is looked at.
  args.window = std::max(plan.window, kWarps);
  if (args.window > (args.slots - 1) * kWarps) args.window = args.slots * kWarps;
  const size_t bytes = apart + size_t{kWarps} * args.slots * kSlotBytes;
  const auto kernel = narrow_kernel<T>;
  // The same for each launch: it is the kernel's, and other threads launch it, too.
  allow_shared_bytes(kernel, kRoom);
  const auto blocks = static_cast<unsigned>(std::min(tiles, plan.max_blocks));
  launch(kernel, {.grid = dim3(blocks), .block = dim3(kThreads), .shared_bytes = bytes}, context,
         args);
}

}  // namespace narrow

void narrow_product(std::span<const FusedProductParams> products, const NarrowPlan& plan,
                    const OpContext& context) {
  if (products[0].linear.weight.dtype == DType::kFloat16)
    return narrow::run<__half>(products, plan, context);
  narrow::run<__nv_bfloat16>(products, plan, context);
}

}  // namespace inflight::cuda
