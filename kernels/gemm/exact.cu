// Products of any dtypes in float32. One definition of a sum serves both kernels, so that an
// output's bits depend on its row of x, its weights and the depth alone:
//   chunk(c) = fused multiply-adds from zero over elements [32 c, 32 c + 32), in order
//   sum      = ((chunk(0) + chunk(1)) + chunk(2)) + ...
#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"

namespace inflight::cuda {
namespace {

constexpr int kChunk = 32;

struct Operands {
  const void* x;       // [rows, depth]
  const void* weight;  // [columns, depth]
  DType x_dtype;
  DType weight_dtype;
  int depth;
};

template <typename Function>
__device__ __forceinline__ void with_elements(const void* data, DType dtype,
                                              const Function& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(static_cast<const __half*>(data));
    case DType::kBFloat16:
      return function(static_cast<const __nv_bfloat16*>(data));
    default:
      return function(static_cast<const float*>(data));
  }
}

// Few rows: a thread sums one chunk of one column for kRows rows.
constexpr int kFewThreads = 256;
constexpr int kFewColumns = 8;                          // of a block
constexpr int kFewChunks = kFewThreads / kFewColumns;   // of a slab
constexpr int kSlab = kFewChunks * kChunk;              // elements of the depth at a time
constexpr int kSlabStride = kFewChunks * (kChunk + 1);  // floats: chunks begin in different banks

/// kRows rows of a matrix, [kSlab] elements each from column k on, as floats; zeros outside.
template <int kRows>
__device__ __forceinline__ void fill_slab(float* slab, const void* data, DType dtype, int row,
                                          int rows, int k, int depth) {
  with_elements(data, dtype, [&](const auto* from) {
#pragma unroll 8
    for (int i = threadIdx.x; i < kRows * kSlab; i += kFewThreads) {
      const int r = i / kSlab, e = i % kSlab;
      const bool is_there = row + r < rows && k + e < depth;
      slab[r * kSlabStride + e / kChunk * (kChunk + 1) + e % kChunk] =
          is_there ? to_float(from[int64_t{row + r} * depth + k + e]) : 0.0f;
    }
  });
}

/// Grid: tiles of kFewColumns columns, tiles of kRows rows.
template <int kRows>
__global__ void __launch_bounds__(kFewThreads)
    few_rows_kernel(const Operands in, const ProductOutput out) {
  extern __shared__ float slabs[];
  float* weights = slabs;
  float* x = slabs + kFewColumns * kSlabStride;
  __shared__ float chunks[kFewColumns][kRows][kFewChunks + 1];
  const int column = static_cast<int>(blockIdx.x) * kFewColumns;
  const int row = static_cast<int>(blockIdx.y) * kRows;
  const int c = threadIdx.x % kFewChunks, n = threadIdx.x / kFewChunks;
  let_next_start();
  float total = 0;  // of column threadIdx.x / kRows, row threadIdx.x % kRows
  for (int k = 0; k < in.depth; k += kSlab) {
    fill_slab<kFewColumns>(weights, in.weight, in.weight_dtype, column, out.columns, k, in.depth);
    if (k == 0) wait_for_previous();
    fill_slab<kRows>(x, in.x, in.x_dtype, row, out.rows, k, in.depth);
    __syncthreads();
    float sums[kRows] = {};
    const float* w = weights + n * kSlabStride + c * (kChunk + 1);
    const float* a = x + c * (kChunk + 1);
#pragma unroll 8
    for (int i = 0; i < kChunk; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = fmaf(a[r * kSlabStride + i], w[i], sums[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) chunks[n][r][c] = sums[r];
    __syncthreads();
    if (threadIdx.x < kFewColumns * kRows) {
      const int used = min(kFewChunks, (in.depth - k + kChunk - 1) / kChunk);
      for (int i = 0; i < used; ++i) total += chunks[threadIdx.x / kRows][threadIdx.x % kRows][i];
    }
  }
  if (threadIdx.x < kFewColumns * kRows) {
    float sums[1] = {total};
    store_sums<1>(out, row + threadIdx.x % kRows, column + threadIdx.x / kRows, sums);
  }
}

// Many rows: a block makes a tile of y, a thread 4 x 4 of it, a chunk of the depth at a time.
constexpr int kTile = 64;
constexpr int kManyThreads = 256;
constexpr int kTileStride = kTile + 4;  // floats

/// kTile rows of a matrix, one chunk of the depth from column k on, transposed: [kChunk][kTile].
struct Staged {
  static constexpr int kEach = kTile * kChunk / kManyThreads;
  float values[kEach];
  __device__ __forceinline__ void load(const void* data, DType dtype, int row, int rows, int k,
                                       int depth) {
    with_elements(data, dtype, [&](const auto* from) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int i = threadIdx.x + j * kManyThreads, r = i / kChunk, e = i % kChunk;
        const bool is_there = row + r < rows && k + e < depth;
        values[j] = is_there ? to_float(from[int64_t{row + r} * depth + k + e]) : 0.0f;
      }
    });
  }
  __device__ __forceinline__ void store(float* tile) const {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = threadIdx.x + j * kManyThreads;
      tile[i % kChunk * kTileStride + i / kChunk] = values[j];
    }
  }
};

__global__ void __launch_bounds__(kManyThreads)
    many_rows_kernel(const Operands in, const ProductOutput out) {
  __shared__ __align__(16) float x[kChunk * kTileStride], weights[kChunk * kTileStride];
  const int row = static_cast<int>(blockIdx.y) * kTile;
  const int column = static_cast<int>(blockIdx.x) * kTile;
  const int across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;
  let_next_start();
  wait_for_previous();
  float totals[4][4] = {};
  Staged next_x, next_weights;
  const auto load = [&](int k) {
    next_x.load(in.x, in.x_dtype, row, out.rows, k, in.depth);
    next_weights.load(in.weight, in.weight_dtype, column, out.columns, k, in.depth);
  };
  load(0);
  for (int k = 0; k < in.depth; k += kChunk) {
    next_x.store(x);
    next_weights.store(weights);
    __syncthreads();
    if (k + kChunk < in.depth) load(k + kChunk);
    float sums[4][4] = {};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float4 a = *reinterpret_cast<const float4*>(x + i * kTileStride + down);
      const float4 b = *reinterpret_cast<const float4*>(weights + i * kTileStride + across);
      const float rows[4] = {a.x, a.y, a.z, a.w}, columns[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r][c] = fmaf(rows[r], columns[c], sums[r][c]);
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) totals[r][c] += sums[r][c];
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) store_sums<4>(out, row + down + r, column + across, totals[r]);
}

template <int kRows>
void run_few(const Operands& in, const ProductOutput& out, const OpContext& context) {
  constexpr size_t kBytes = sizeof(float) * (kFewColumns + kRows) * kSlabStride;
  allow_shared_bytes(few_rows_kernel<kRows>, kBytes);
  launch(few_rows_kernel<kRows>,
         {dim3(static_cast<unsigned>((out.columns + kFewColumns - 1) / kFewColumns),
               static_cast<unsigned>((out.rows + kRows - 1) / kRows)),
          dim3(kFewThreads), kBytes},
         context, in, out);
}

}  // namespace

void exact_product(const LinearParams& p, const OpContext& context) {
  const auto rows = static_cast<int>(p.x.shape[0]), columns = static_cast<int>(p.weight.shape[0]);
  const Operands in{p.x.data, p.weight.data, p.x.dtype, p.weight.dtype,
                    static_cast<int>(p.x.shape[1])};
  const ProductOutput out{.y = p.y.data,
                          .bias = p.bias.data,
                          .rows = rows,
                          .columns = columns,
                          .y_dtype = p.y.dtype,
                          .bias_dtype = p.bias.dtype};
  if (rows == 1) return run_few<1>(in, out, context);
  if (rows <= 4) return run_few<4>(in, out, context);
  if (rows <= 16) return run_few<8>(in, out, context);
  launch(many_rows_kernel,
         {dim3(static_cast<unsigned>((columns + kTile - 1) / kTile),
               static_cast<unsigned>((rows + kTile - 1) / kTile)),
          dim3(kManyThreads)},
         context, in, out);
}

}  // namespace inflight::cuda
