// What a warp does with a tile of 16 keys and values in shared memory: tensor core products and
// the softmax between them. All is transposed, so that the few query heads are the short side of
// the product: scores' [keys, heads] = K q', outputs' [components, heads] = V' weights'.
// Instructions: PTX ISA, "Warp-level matrix instructions".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/core/cuda/reduce.cuh"

namespace inflight::cuda::decode {

inline constexpr int kTileKeys = 16;

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes to shared memory; zeros, without reading, if `is_there` is false.
__device__ __forceinline__ void copy16_async(uint32_t to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(is_there ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy16_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;" ::); }
/// All but the latest `pending` groups of this thread have arrived; at most 3.
__device__ __forceinline__ void wait_for_copies(int pending) {
  switch (pending) {
    case 0:
      asm volatile("cp.async.wait_group 0;" ::: "memory");
      break;
    case 1:
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      break;
    case 2:
      asm volatile("cp.async.wait_group 2;" ::: "memory");
      break;
    default:
      asm volatile("cp.async.wait_group 3;" ::: "memory");
      break;
  }
}

/// Four 8x8 matrices of 2-byte elements; lane 8 i + r gives the address of row r of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ uint32_t transposed(uint32_t matrix) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(matrix));
  return result;
}

/// c [16, 8] += a [16, 16] b [16, 8].
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                            const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t pack(__nv_bfloat16*, float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}
__device__ __forceinline__ uint32_t pack(__half*, float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// A warp's queries and running softmax of up to 8 kHeadBlocks heads. Lane l knows heads
/// 2 (l % 4) and the next (of each block of 8) of rows l / 4 and l / 4 + 8 of each product.
template <typename T, int kHeadSize, int kHeadBlocks>
struct HeadGroup {
  static constexpr int kPitch = kHeadSize + 8;  // of shared rows: 16 bytes more keep banks apart
  static constexpr int kSteps = kHeadSize / 16;
  // Scores may pass the subtracted maximum by so much (a factor of 2^8) before sums are rescaled.
  static constexpr float kSlack = 8.0f;

  /// A lane's part of the queries of up to 8 kHeadBlocks heads.
  using Queries = uint32_t[kHeadBlocks][kSteps][2];
  Queries queries;
  float outputs[kHeadBlocks][kSteps][4];
  float maxima[kHeadBlocks][2];
  float sums[kHeadBlocks][2];  // of this lane's keys alone

  /// `q` is [num_heads, kHeadSize].
  static __device__ __forceinline__ void load_queries(Queries& to, const T* q, int num_heads) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
      const int head = block * 8 + lane / 4;
      const auto* from = reinterpret_cast<const uint32_t*>(q + head * kHeadSize) + lane % 4;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        to[block][i][0] = head < num_heads ? from[i * 8] : 0;
        to[block][i][1] = head < num_heads ? from[i * 8 + 4] : 0;
      }
    }
  }

  __device__ __forceinline__ void start(const Queries& from) {
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        queries[block][i][0] = from[block][i][0];
        queries[block][i][1] = from[block][i][1];
#pragma unroll
        for (int c = 0; c < 4; ++c) outputs[block][i][c] = 0;
      }
      maxima[block][0] = maxima[block][1] = -INFINITY;
      sums[block][0] = sums[block][1] = 0;
    }
  }

  /// Moves maxima up to `scores` (in units of log2), and sums and outputs with them.
  __device__ __forceinline__ void raise_maxima(const float (&scores)[kHeadBlocks][4]) {
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float largest = fmaxf(scores[block][c], scores[block][c + 2]);
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
        largest = fmaxf(largest, maxima[block][c]);
        const float factor = exp2_fast(maxima[block][c] - largest);
        maxima[block][c] = largest;
        sums[block][c] *= factor;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          outputs[block][i][c] *= factor;
          outputs[block][i][c + 2] *= factor;
        }
      }
    }
  }

  /// Adds a tile of [kTileKeys, kPitch] keys and values; those from `valid` on (at least 1) are
  /// not there. `scale` turns products into exponents of 2.
  __device__ __forceinline__ void add(uint32_t keys, uint32_t values, int valid, float scale) {
    const int lane = threadIdx.x % 32;
    float scores[kHeadBlocks][4] = {}, odd_scores[kHeadBlocks][4] = {};  // two shorter chains
    const uint32_t key_address = keys + ((lane % 16) * kPitch + lane / 16 * 8) * sizeof(T);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32_t tile[4];
      load_matrices(tile, key_address + i * 16 * sizeof(T));
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block)
        multiply_add<T>(i % 2 == 0 ? scores[block] : odd_scores[block], tile, queries[block][i]);
    }
    bool is_above = false;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float score = scores[block][c] + odd_scores[block][c];
        scores[block][c] = lane / 4 + c / 2 * 8 < valid ? score * scale : -INFINITY;
        is_above |= scores[block][c] > maxima[block][c % 2] + kSlack;
      }
    }
    if (__any_sync(kFullWarp, is_above)) raise_maxima(scores);

    uint32_t weights[kHeadBlocks][2];
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[block][c] = exp2_fast(scores[block][c] - maxima[block][c % 2]);
        sums[block][c % 2] += scores[block][c];
      }
      weights[block][0] =
          transposed(pack(static_cast<T*>(nullptr), scores[block][0], scores[block][1]));
      weights[block][1] =
          transposed(pack(static_cast<T*>(nullptr), scores[block][2], scores[block][3]));
    }
    const uint32_t value_address =
        values + ((lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8) * sizeof(T);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32_t tile[4];
      load_matrices_transposed(tile, value_address + i * 16 * sizeof(T));
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block)
        multiply_add<T>(outputs[block][i], tile, weights[block]);
    }
  }

  /// Writes the first `num_heads` heads: outputs [head][pitch], {maximum, sum} [head].
  __device__ __forceinline__ void store(float* to, int pitch, float2* states, int num_heads) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float sum = sums[block][c];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          sum += __shfl_xor_sync(kFullWarp, sum, offset);
        const int head = block * 8 + lane % 4 * 2 + c;
        if (head >= num_heads) continue;
        if (lane < 4) states[head] = make_float2(maxima[block][c], sum);
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          to[head * pitch + i * 16 + lane / 4] = outputs[block][i][c];
          to[head * pitch + i * 16 + lane / 4 + 8] = outputs[block][i][c + 2];
        }
      }
    }
  }
};

}  // namespace inflight::cuda::decode
