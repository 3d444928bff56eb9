#include <algorithm>
#include <cstdint>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/kv_cache/copy_blocks.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;
// The list travels as a launch parameter, of which a kernel has 4 KB: no memory to keep until the
// device has read it.
constexpr int kMaxCopies = 320;
constexpr int kThreadBlocksPerMultiprocessor = 8;

struct CopyList {
  CopyBlocksParams::Copy copies[kMaxCopies];
};

/// Thread blocks along y take a copy each, along x rows in turns. Lengths and strides count Units.
/// Never calls let_next_start(): what follows may read blocks before it waits for step inputs.
template <typename Unit>
__global__ void copy_blocks_kernel(Unit* pool, __grid_constant__ const CopyList list,
                                   int64_t block_stride, int64_t rows, int64_t row_stride,
                                   int64_t token_stride) {
  wait_for_previous();
  const CopyBlocksParams::Copy copy = list.copies[blockIdx.y];
  const int64_t length = copy.num_tokens * token_stride;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const Unit* source = pool + copy.from * block_stride + row * row_stride;
    Unit* target = pool + copy.to * block_stride + row * row_stride;
    for (int64_t i = threadIdx.x; i < length; i += kThreads) target[i] = source[i];
  }
}

}  // namespace

void copy_blocks(const CopyBlocksParams& params, OpContext& context) {
  const TensorView& pool = params.pool;
  const auto with_unit = [&]<typename Unit>(Unit) {
    constexpr int64_t kSize = sizeof(Unit);
    for (size_t first = 0; first < params.copies.size(); first += kMaxCopies) {
      CopyList list;
      const auto part =
          params.copies.subspan(first, std::min<size_t>(kMaxCopies, params.copies.size() - first));
      std::ranges::copy(part, list.copies);
      const auto copies = static_cast<unsigned>(part.size());
      const int64_t room = int64_t{context.num_multiprocessors} * kThreadBlocksPerMultiprocessor;
      const auto along_rows =
          static_cast<unsigned>(std::clamp<int64_t>(room / copies, 1, pool.shape[1]));
      launch(copy_blocks_kernel<Unit>, {dim3(along_rows, copies), dim3(kThreads)}, context,
             pool.as<Unit>(), list, pool.strides[0] / kSize, pool.shape[1], pool.strides[1] / kSize,
             pool.strides[2] / kSize);
    }
  };
  // A token's bytes in a row divide the row's.
  const uint64_t together = reinterpret_cast<uintptr_t>(pool.data) |
                            static_cast<uint64_t>(pool.strides[0]) |
                            static_cast<uint64_t>(pool.strides[2]);
  if (together % 16 == 0) return with_unit(uint4{});
  if (together % 4 == 0) return with_unit(uint32_t{});
  if (together % 2 == 0) return with_unit(uint16_t{});
  with_unit(uint8_t{});
}

}  // namespace inflight::cuda
