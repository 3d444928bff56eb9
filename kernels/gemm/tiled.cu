// Products of 16-bit matrices by mma.sync for every GPU from sm_80 on: tiles of x and of the
// weights go through a ring of shared memory by cp.async, fragments come out by ldmatrix. Serves
// where neither the skinny product nor cuBLASLt does.
#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/mma.cuh"
#include "kernels/gemm/products.h"
#include "kernels/gemm/store.cuh"

namespace inflight::cuda {
namespace {

constexpr int kDepth = 32;  // elements of the depth in a tile: 64 bytes a row
constexpr int kSlots = 4;
constexpr int kChunks = kDepth / 8;  // of 16 bytes in a tile's row

/// Where a 16-byte chunk of a tile's row lies: permuted so that eight rows' chunks of one column
/// lie in different banks.
__device__ __forceinline__ uint32_t chunk_offset(int row, int chunk) {
  return static_cast<uint32_t>((row * kChunks + (chunk ^ ((row / 2) % kChunks))) * 16);
}

/// Rows [row, row + kRows) of a [rows, depth] matrix from column k on; zeros outside.
template <int kRows, int kThreads, typename T>
__device__ __forceinline__ void copy_to_tile(uint32_t tile, const T* matrix, int row, int rows,
                                             int k, int depth) {
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int r = i / kChunks, chunk = i % kChunks, from = k + chunk * 8;
    const bool is_there = row + r < rows && from < depth;
    const T* source = is_there ? matrix + int64_t{row + r} * depth + from : matrix;
    copy_async(tile + chunk_offset(r, chunk), source, is_there);
  }
}

/// A block makes kRows x kColumns of y; a warp kWarpRows x kWarpColumns. Grid: column tiles, row
/// tiles.
template <typename T, int kRows, int kColumns, int kWarpRows, int kWarpColumns>
__global__ void __launch_bounds__(kRows / kWarpRows * (kColumns / kWarpColumns) * 32)
    tiled_kernel(const T* x, const T* weight, const ProductOutput out, int depth) {
  constexpr int kWarpsAcross = kColumns / kWarpColumns;
  constexpr int kThreads = kRows / kWarpRows * kWarpsAcross * 32;
  constexpr int kXBytes = kRows * kDepth * 2, kSlotBytes = kXBytes + kColumns * kDepth * 2;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t ring = shared_address(shared);
  const int row = static_cast<int>(blockIdx.y) * kRows;
  const int column = static_cast<int>(blockIdx.x) * kColumns;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / kWarpsAcross * kWarpRows;
  const int warp_column = warp % kWarpsAcross * kWarpColumns;
  const int steps = (depth + kDepth - 1) / kDepth;

  let_next_start();
  wait_for_previous();
  const auto copy = [&](int step) {
    if (step < steps) {
      const uint32_t slot = ring + step % kSlots * kSlotBytes;
      copy_to_tile<kRows, kThreads>(slot, x, row, out.rows, step * kDepth, depth);
      copy_to_tile<kColumns, kThreads>(slot + kXBytes, weight, column, out.columns, step * kDepth,
                                       depth);
    }
    commit_copies();
  };
  for (int step = 0; step < kSlots - 1; ++step) copy(step);

  constexpr int kMs = kWarpRows / 16, kNs = kWarpColumns / 8;
  float sums[kMs][kNs][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_copies<kSlots - 2>();
    __syncthreads();  // the step's tiles are there, those of the step before are read
    copy(step + kSlots - 1);
    const uint32_t x_tile = ring + step % kSlots * kSlotBytes, weight_tile = x_tile + kXBytes;
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t a[kMs][4], b[kNs / 2][4];
#pragma unroll
      for (int m = 0; m < kMs; ++m)
        load_matrices(a[m],
                      x_tile + chunk_offset(warp_row + m * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < kNs / 2; ++n) {
        const int r = warp_column + n * 16 + lane / 16 * 8 + lane % 8;
        load_matrices(b[n], weight_tile + chunk_offset(r, 2 * k + lane / 8 % 2));
      }
#pragma unroll
      for (int m = 0; m < kMs; ++m) {
#pragma unroll
        for (int n = 0; n < kNs; ++n)
          multiply_add<T>(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kMs; ++m) {
#pragma unroll
    for (int n = 0; n < kNs; ++n) {
      const int r = row + warp_row + m * 16 + lane / 4;
      const int c = column + warp_column + n * 8 + lane % 4 * 2;
      float upper[2] = {sums[m][n][0], sums[m][n][1]}, lower[2] = {sums[m][n][2], sums[m][n][3]};
      store_sums<2>(out, r, c, upper);
      store_sums<2>(out, r + 8, c, lower);
    }
  }
}

template <typename T, int kRows, int kColumns, int kWarpRows, int kWarpColumns>
void run(const LinearParams& p, const OpContext& context) {
  const auto kernel = tiled_kernel<T, kRows, kColumns, kWarpRows, kWarpColumns>;
  const auto rows = static_cast<int>(p.x.shape[0]), columns = static_cast<int>(p.weight.shape[0]);
  constexpr size_t kBytes = size_t{kSlots} * (kRows + kColumns) * kDepth * 2;
  allow_shared_bytes(kernel, kBytes);
  const ProductOutput out{.y = p.y.data,
                          .bias = p.bias.data,
                          .rows = rows,
                          .columns = columns,
                          .y_dtype = p.y.dtype,
                          .bias_dtype = p.bias.dtype};
  launch(kernel,
         {dim3(static_cast<unsigned>((columns + kColumns - 1) / kColumns),
               static_cast<unsigned>((rows + kRows - 1) / kRows)),
          dim3(kRows / kWarpRows * (kColumns / kWarpColumns) * 32), kBytes},
         context, p.x.as<const T>(), p.weight.as<const T>(), out, static_cast<int>(p.x.shape[1]));
}

template <typename T>
void run_rows(const LinearParams& p, const OpContext& context) {
  if (p.x.shape[0] <= 16) return run<T, 16, 64, 16, 16>(p, context);
  if (p.x.shape[0] <= 64) return run<T, 64, 64, 32, 32>(p, context);
  run<T, 128, 128, 64, 32>(p, context);
}

}  // namespace

void tiled_product(const LinearParams& params, const OpContext& context) {
  if (params.weight.dtype == DType::kFloat16) return run_rows<__half>(params, context);
  run_rows<__nv_bfloat16>(params, context);
}

}  // namespace inflight::cuda
