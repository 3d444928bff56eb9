// Copies chosen rows of a matrix, a thread block each: lookups and gathers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/cuda/launch.cuh"

namespace inflight::cuda {

/// y[i] = from[rows[i]], or zeros where rows[i] is outside [0, num_rows). A row is `units` Units.
template <typename Unit>
__global__ void copy_rows_kernel(const Unit* from, const int32_t* rows, Unit* y, int32_t num_rows,
                                 int64_t units) {
  let_next_start();
  wait_for_previous();
  const int32_t row = rows[blockIdx.x];
  const bool is_there = row >= 0 && row < num_rows;
  const Unit* source = from + (is_there ? row : 0) * units;
  Unit* target = y + int64_t{blockIdx.x} * units;
  for (int64_t i = threadIdx.x; i < units; i += blockDim.x)
    target[i] = is_there ? source[i] : Unit{};
}

/// Rows of `row_bytes` bytes; `count` of them are chosen. Moves as many bytes at a time as
/// addresses and lengths allow.
inline void copy_rows(const void* from, const int32_t* rows, void* y, int64_t num_rows,
                      int64_t count, size_t row_bytes, const OpContext& context) {
  const auto with_unit = [&]<typename Unit>(Unit) {
    const auto units = static_cast<int64_t>(row_bytes / sizeof(Unit));
    const auto threads =
        static_cast<unsigned>(std::clamp<int64_t>((units + 31) / 32 * 32, 32, 256));
    launch(copy_rows_kernel<Unit>, {dim3(static_cast<unsigned>(count)), dim3(threads)}, context,
           static_cast<const Unit*>(from), rows, static_cast<Unit*>(y),
           static_cast<int32_t>(num_rows), units);
  };
  const size_t together =
      reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(y) | row_bytes;
  if (together % 16 == 0) return with_unit(uint4{});
  if (together % 4 == 0) return with_unit(uint32_t{});
  if (together % 2 == 0) return with_unit(uint16_t{});
  with_unit(uint8_t{});
}

}  // namespace inflight::cuda
