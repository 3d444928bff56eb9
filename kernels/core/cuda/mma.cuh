// Tensor cores as a warp uses them: 8x8 matrices of 16-bit elements between shared memory and
// registers, and products of 16 x 8 x 16. sm_80, storing sm_90. (PTX ISA: ldmatrix, stmatrix,
// movmatrix, mma.)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace inflight::cuda {

/// Four matrices; lanes 8 i to 8 i + 7 name the rows of matrix i, of 16 bytes each. Of matrix i,
/// lane l gets two elements of row l / 4, from 2 (l % 4) on.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
/// The same of the matrices' transposes.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}
/// Of a matrix in registers. Volatile, or it could move to where some lanes have gone.
__device__ __forceinline__ uint32_t transposed(uint32_t matrix) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(matrix));
  return result;
}

/// c [16, 8] += a [16, 16] b [16, 8]. Of c, lane l has two elements of row l / 4, then of row
/// l / 4 + 8; of a four matrices: above, below, above and 8 further in the depth, below; of b the
/// upper and the lower one, transposed.
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
#define INFLIGHT_MMA(type)                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<T, __half>) {
    INFLIGHT_MMA("f16");
  } else {
    INFLIGHT_MMA("bf16");
  }
#undef INFLIGHT_MMA
}

}  // namespace inflight::cuda
