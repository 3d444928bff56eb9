// At most 8 rows of x on Hopper. A thread block owns whole columns of y: each of its warps streams
// its share of their depth through a ring of its own in shared memory, filled by the copy engine,
// and multiplies it with x (mma.sync). No warp waits for another before a tile's sums are added, in
// a fixed order: a row's bits depend neither on timing nor on other rows.
// Weights never change, so the rings are full before the kernel before this one is done. x comes
// ahead of its use too: behind a full memory system a read takes longer than a slot's products.
// RMS norm: y = (x * g) W^T * 1 / sqrt(mean(x^2) + epsilon), the squares summed on the way.
#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/hopper.cuh"
#include "kernels/gemm/norm.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxSlots = 6;      // of a warp's ring
constexpr int kXAheadChunks = 4;  // of 64 elements of x, on their way where not all are kept
constexpr int kAtom = 8 * 128;    // bytes of 8 weight rows x 64 elements: the swizzle's unit
constexpr int kGroupColumns = 8;  // columns of y in an atom
constexpr int kPad = 4;           // floats after a row of sums: a warp's stores meet no bank twice

/// 64-element chunks of the depth in a slot.
constexpr int chunks_of(int groups) { return groups == 2 ? 2 : 1; }
constexpr int slot_bytes(int groups) { return groups * chunks_of(groups) * kAtom; }

struct NarrowArgs {
  const void* x;            // [rows, depth]
  const void* norm_weight;  // [depth] or null
  float epsilon;
  int depth;
  int steps;  // slots' worth of depth
  int width;  // columns of y in a tile
  int tiles;
  int slots;     // of a warp's ring
  int x_bytes;   // of a warp
  bool keeps_x;  // x_bytes hold all of the warp's x
  Trigger trigger;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <typename T>
__device__ __forceinline__ void add_products(float (&sums)[4], uint32_t a0, uint32_t a2,
                                             uint32_t b0, uint32_t b1) {
  // Rows 8 to 15 of the tensor core's tile are zeros.
#define INFLIGHT_MMA(type)                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
               : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<T, __half>) {
    INFLIGHT_MMA("f16");
  } else {
    INFLIGHT_MMA("bf16");
  }
#undef INFLIGHT_MMA
}

__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ void copy_async(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Warps share the depth by 128 elements, whatever a slot holds of them.
template <int kChunks>
__device__ __forceinline__ int first_step(int warp) {
  return kChunks == 2 ? warp : 2 * warp;
}
template <int kChunks>
__device__ __forceinline__ int step_after(int step) {
  if (kChunks == 2) return step + kWarps;
  return step % 2 == 0 ? step + 1 : step - 1 + 2 * kWarps;
}

#endif

/// Of kGroups * 8 weight rows a tile, half of them the gate's if the output is gated. Blocks take
/// tiles in turn. Dynamic shared memory: the rings, each warp's x, g, and the sums on their way
/// from the warps to those who finish them: [kWarps][rows][kColumns + kPad].
template <typename T, int kGroups>
__global__ void __launch_bounds__(kWarps * 32, 2)
    narrow_kernel(const __grid_constant__ CUtensorMap weights, const ProductOutput out,
                  const NarrowArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kChunks = chunks_of(kGroups), kHalves = 2 * kChunks;
  constexpr int kSlotBytes = slot_bytes(kGroups), kColumns = kGroups * kGroupColumns;
  constexpr int kXAhead = kXAheadChunks / kChunks;  // slots
  constexpr bool kCanNorm = std::is_same_v<T, __nv_bfloat16>;
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ uint64_t full[kWarps][kMaxSlots];
  __shared__ float squares[kWarps][kMaxNarrowRows];

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;
  const int first = static_cast<int>(blockIdx.x), stride = static_cast<int>(gridDim.x);
  const int width = args.width, depth = args.depth, steps = args.steps;
  const int begin = first_step<kChunks>(warp);
  const bool is_normed = kCanNorm && args.norm_weight != nullptr;
  uint8_t* ring = shared + warp * args.slots * kSlotBytes;
  uint8_t* xs = shared + kWarps * args.slots * kSlotBytes;
  T* g = reinterpret_cast<T*>(xs + kWarps * args.x_bytes);
  float* parts = reinterpret_cast<float*>(g + (is_normed ? depth : 0));
  const auto part = [&](int of_warp, int row) {
    return parts + (of_warp * out.rows + row) * (kColumns + kPad);
  };

  // The weights that are copied next.
  int copy_tile = begin < steps ? first : args.tiles, copy_step = begin;
  const uint64_t policy = read_once_policy();
  const auto copy = [&](int slot) {
    const int row = copy_tile * width, chunk = copy_step * kChunks;
    uint8_t* to = ring + slot * kSlotBytes;
    uint64_t* barrier = &full[warp][slot];
    arrive_expecting(barrier, kSlotBytes);
    copy_chunks(to, weights, row, chunk, barrier, policy);
    if (out.is_gated)
      copy_chunks(to + kSlotBytes / 2, weights, out.columns + row, chunk, barrier, policy);
    if ((copy_step = step_after<kChunks>(copy_step)) < steps) return;
    copy_step = begin;
    if ((copy_tile += stride) >= args.tiles && args.trigger == Trigger::kLate) let_next_start();
  };
  const bool is_issuer = lane == 0;
  if (args.trigger == Trigger::kAtOnce) let_next_start();
  if (is_issuer) {
    for (int slot = 0; slot < args.slots; ++slot) init_barrier(&full[warp][slot], 1);
    publish_barriers();
    for (int slot = 0; slot < args.slots && copy_tile < args.tiles; ++slot) copy(slot);
  }
  __syncwarp();

  if (is_normed) {
    const T* from = static_cast<const T*>(args.norm_weight);
    for (int k = thread * 8; k < depth; k += kWarps * 32 * 8) copy_async(g + k, from + k);
    commit_copies();
  }
  // Lane (group, quarter) multiplies elements [8 quarter, 8 quarter + 8) of each 32 of row `group`
  // of x: that permutes the depth within 32, for x and weights alike. It reads what it copied.
  const int slot_x_bytes = out.rows * kHalves * 64, half_x_bytes = out.rows * 64;
  const bool has_row = group < out.rows;
  const T* x = static_cast<const T*>(args.x) + int64_t{has_row ? group : 0} * depth + quarter * 8;
  uint8_t* x_of_lane = xs + warp * args.x_bytes + group * 64 + quarter * 16;
  const auto copy_x = [&](int buffer, int step) {
    if (!has_row) return;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int k = (step * kHalves + h) * 32;
      if (k < depth) copy_async(x_of_lane + buffer * slot_x_bytes + h * half_x_bytes, x + k);
    }
  };
  int x_tile = first, x_step = begin, x_buffer = 0;
  const auto copy_next_x = [&] {
    if (x_step < steps && x_tile < args.tiles) {
      copy_x(x_buffer, x_step);
      x_buffer = (x_buffer + 1) % kXAhead;
      if ((x_step = step_after<kChunks>(x_step)) >= steps) {
        x_step = begin;
        x_tile += stride;
      }
    }
    commit_copies();
  };

  wait_for_previous();
  if (args.keeps_x) {
    for (int step = begin; step < steps; step = step_after<kChunks>(step)) copy_x(x_buffer++, step);
    commit_copies();
  } else {
    for (int i = 0; i < kXAhead; ++i) copy_next_x();
  }
  if (is_normed || args.keeps_x) wait_copies<0>();
  if (is_normed) __syncthreads();  // others copied parts of g

  const int group_bytes = out.is_gated && kChunks > 1 ? 2 * kAtom : kAtom;
  const int chunk_bytes = out.is_gated ? kAtom : kGroups * kAtom;
  // Lanes of a quarter warp read rows p and p + 4: their chunks of 16 bytes lie in different banks.
  const int weight_row = group / 2 + group % 2 * 4;
  const uint32_t weights_of_lane =
      shared_address(ring) + weight_row * 128 + ((quarter ^ weight_row) << 4);
  float row_squares = 0;
  int slot = 0, buffer = 0;
  uint32_t parity = 0;
  for (int tile = first; tile < args.tiles; tile += stride) {
    const int row = thread / width, at = thread % width, column = tile * width + at;
    const auto additions = load_additions<1>(out, row, column);
    float sums[kGroups][4] = {};
    if (args.keeps_x) buffer = 0;
    for (int step = begin; step < steps; step = step_after<kChunks>(step)) {
      if (!args.keeps_x) wait_copies<kXAhead - 1>();
      uint4 a[kHalves];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const int k = (step * kHalves + h) * 32;
        const uint8_t* from = x_of_lane + buffer * slot_x_bytes + h * half_x_bytes;
        a[h] = has_row && k < depth ? *reinterpret_cast<const uint4*>(from) : uint4{};
        if constexpr (kCanNorm) {
          if (is_normed && k < depth) {
            if (tile == first) row_squares = square_sum(row_squares, a[h]);
            a[h] = scaled(a[h], *reinterpret_cast<const uint4*>(g + k + quarter * 8));
          }
        }
      }
      ++buffer;
      wait(&full[warp][slot], parity);
      const uint32_t from = weights_of_lane + slot * kSlotBytes;
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          const uint4 w =
              load_shared((from + h / 2 * chunk_bytes + i * group_bytes) ^ (h % 2 * 64));
          add_products<T>(sums[i], a[h].x, a[h].y, w.x, w.y);
          add_products<T>(sums[i], a[h].z, a[h].w, w.z, w.w);
        }
      }
      if (!args.keeps_x) {
        buffer %= kXAhead;
        copy_next_x();
      }
      __syncwarp();
      if (is_issuer && copy_tile < args.tiles) copy(slot);
      if (++slot == args.slots) {
        slot = 0;
        parity ^= 1;
      }
    }

    if (is_normed && tile == first) {
      row_squares += __shfl_xor_sync(~0u, row_squares, 1);
      row_squares += __shfl_xor_sync(~0u, row_squares, 2);
      if (quarter == 0) squares[warp][group] = row_squares;
    }
    if (has_row) {
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        float* to = part(warp, group) + i * kGroupColumns + quarter;
        to[0] = sums[i][0];
        to[4] = sums[i][1];
      }
    }
    __syncthreads();
    if (row < out.rows && column < out.columns) {
      float sum[1] = {}, up[1] = {}, scale = 1;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum[0] += part(w, row)[at];
      if (out.is_gated) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w) up[0] += part(w, row)[at + width];
      }
      if (is_normed) {
        float all = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) all += squares[w][row];
        scale = norm_scale(all, depth, args.epsilon);
      }
      store_finished<1>(out, row, column, scale, sum, up, additions);
    }
    if (tile + stride < args.tiles) __syncthreads();
  }
#endif
}

template <typename T, int kGroups>
void run(const FusedProductParams& p, const NarrowPlan& plan, const OpContext& context) {
  constexpr int kChunks = chunks_of(kGroups), kColumns = kGroups * kGroupColumns;
  const auto kernel = narrow_kernel<T, kGroups>;
  const ProductOutput out = output_of(p);
  const auto depth = static_cast<int>(p.linear.x.shape[1]);
  const int width = kColumns / (p.is_gated ? 2 : 1);
  const int tiles = (out.columns + width - 1) / width;
  const int all_x = (depth + 128 * kWarps - 1) / (128 * kWarps) * 128 * 2 * out.rows;
  const int some_x = kXAheadChunks * 64 * 2 * out.rows;
  const bool keeps_x = all_x <= std::max(plan.x_bytes / kWarps, some_x);
  const NarrowArgs args{
      .x = p.linear.x.data,
      .norm_weight = p.norm_weight.data,
      .epsilon = p.epsilon,
      .depth = depth,
      .steps = (depth + kChunks * 64 - 1) / (kChunks * 64),
      .width = width,
      .tiles = tiles,
      .slots = std::clamp(plan.ring_bytes / (kWarps * slot_bytes(kGroups)), 1, kMaxSlots),
      .x_bytes = keeps_x ? all_x : some_x,
      .keeps_x = keeps_x,
      .trigger = plan.trigger};
  const size_t of_warp = args.slots * slot_bytes(kGroups) + args.x_bytes +
                         out.rows * (kColumns + kPad) * sizeof(float);
  const size_t bytes = kWarps * of_warp + (p.norm_weight ? depth * 2 : 0) + 1024;
  allow_shared_bytes(kernel, bytes);
  const int blocks = std::min(tiles, plan.max_blocks);
  launch(kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kWarps * 32), bytes}, context,
         tensor_map_of_chunks(p.linear.weight, width, kChunks), out, args);
}

template <typename T>
void run_groups(const FusedProductParams& p, const NarrowPlan& plan, const OpContext& context) {
  switch (plan.groups) {
    case 2:
      return run<T, 2>(p, plan, context);
    case 3:
      return run<T, 3>(p, plan, context);
    default:
      return run<T, 4>(p, plan, context);
  }
}

}  // namespace

void narrow_product(const FusedProductParams& params, const NarrowPlan& plan,
                    const OpContext& context) {
  if (params.linear.weight.dtype == DType::kFloat16)
    return run_groups<__half>(params, plan, context);
  run_groups<__nv_bfloat16>(params, plan, context);
}

}  // namespace inflight::cuda
