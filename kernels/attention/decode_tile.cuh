// A warp's tile of 16 keys and values, and the instructions that it is read and multiplied with
// (decode_heads.cuh has the products and the softmax between them). A tile goes from memory
// straight to the registers that the products take. All is transposed, so that the few query heads
// are the short side of the product: scores' [keys, heads] = K q', outputs' [components, heads] =
// V' weights'. The order of a product's inner dimension and of its rows is free: it is chosen so
// that a lane's share of a row is 16 bytes at a time. Instructions: PTX ISA, "Warp-level matrix
// instructions".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/math.cuh"
#include "kernels/core/cuda/mma.cuh"
#include "kernels/core/cuda/reduce.cuh"

namespace inflight::cuda::decode {

using cuda::exp2_fast;

inline constexpr int kTileKeys = 16;

/// kWords registers from memory that other multiprocessors may have written just now: not cached
/// in this one's. `is_there` false leaves them.
template <int kWords>
__device__ __forceinline__ void load_words(uint32_t* to, const void* from) {
  if constexpr (kWords == 4) {
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(from));
  } else if constexpr (kWords == 2) {
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(from));
  } else {
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(to[0]) : "l"(from));
  }
}
template <int kWords>
__device__ __forceinline__ void load_words(uint32_t* to, const void* from, bool is_there) {
  const auto predicate = static_cast<uint32_t>(is_there);
  if constexpr (kWords == 4) {
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4]; }"
        : "+r"(to[0]), "+r"(to[1]), "+r"(to[2]), "+r"(to[3])
        : "l"(from), "r"(predicate));
  } else if constexpr (kWords == 2) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p ld.global.cg.v2.u32 {%0,%1}, [%2]; }"
                 : "+r"(to[0]), "+r"(to[1])
                 : "l"(from), "r"(predicate));
  } else {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.global.cg.u32 %0, [%1]; }"
                 : "+r"(to[0])
                 : "l"(from), "r"(predicate));
  }
}

template <int kWords>
__device__ __forceinline__ void store_words(void* to, const uint32_t* from) {
  if constexpr (kWords == 4) {
    *static_cast<uint4*>(to) = {from[0], from[1], from[2], from[3]};
  } else if constexpr (kWords == 2) {
    *static_cast<uint2*>(to) = {from[0], from[1]};
  } else {
    *static_cast<uint32_t*>(to) = from[0];
  }
}

/// A lane's share of a row of kSize 2-byte elements that kLanes lanes divide: 16 bytes of each
/// piece of kLanes * 16, and its share of what is left. load(words, offset in elements).
template <int kSize, int kLanes, typename Load>
__device__ __forceinline__ void for_pieces(int lane, const Load& load) {
  constexpr int kPiece = kLanes * 8, kWhole = kSize / kPiece, kRest = kSize % kPiece / kLanes / 2;
#pragma unroll
  for (int i = 0; i < kWhole; ++i)
    load(std::integral_constant<int, 4>{}, i * 4, i * kPiece + lane * 8);
  if constexpr (kRest > 0)
    load(std::integral_constant<int, kRest>{}, kWhole * 4, kWhole * kPiece + lane * kRest * 2);
}

/// Whether a lane's share of a row (of 4 lanes) has both halves of the pairs that a rotation mixes.
inline constexpr bool can_rotate(int head_size) { return head_size % 64 == 0; }

/// Rotates pairs (i, kSize / 2 + i) of rows that 4 lanes divide. `cos_sin` is [2, kSize / 2].
template <typename T, int kSize, int kRows>
__device__ __forceinline__ void rotate(uint32_t (&rows)[kRows][kSize / 8], const float* cos_sin) {
  static_assert(can_rotate(kSize));
#pragma unroll
  for (int piece = 0; piece < kSize / 64; ++piece) {
    const auto* cosines =
        reinterpret_cast<const float4*>(cos_sin + piece * 32 + threadIdx.x % 4 * 8);
    const float4* sines = cosines + kSize / 8;
#pragma unroll
    for (int quad = 0; quad < 2; ++quad) {
      const float4 cosine = cosines[quad], sine = sines[quad];
      const float c[4] = {cosine.x, cosine.y, cosine.z, cosine.w};
      const float s[4] = {sine.x, sine.y, sine.z, sine.w};
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int word = 0; word < 2; ++word) {
          uint32_t& low = rows[row][piece * 4 + quad * 2 + word];
          uint32_t& high = rows[row][(piece + kSize / 64) * 4 + quad * 2 + word];
          const float2 u = unpack(T(), low), v = unpack(T(), high);
          const float c0 = c[word * 2], c1 = c[word * 2 + 1];
          const float s0 = s[word * 2], s1 = s[word * 2 + 1];
          low = pack(T(), u.x * c0 - v.x * s0, u.y * c1 - v.y * s1);
          high = pack(T(), v.x * c0 + u.x * s0, v.y * c1 + u.y * s1);
        }
      }
    }
  }
}

/// A warp's tile of keys and values. Lane l has the parts l % 4 of keys l / 4 and l / 4 + 8, and
/// the parts l / 4 of values 2 (l % 4), the next, and those 8 further.
template <typename T, int kHeadSize>
struct Tile {
  uint32_t keys[2][kHeadSize / 8];
  uint32_t values[4][kHeadSize / 16];

  static __device__ __forceinline__ int key_of(int i) { return threadIdx.x % 32 / 4 + i * 8; }
  static __device__ __forceinline__ int value_of(int i) {
    return threadIdx.x % 4 * 2 + i % 2 + i / 2 * 8;
  }

  /// Starts to load the keys of a tile of [16, kHeadSize], those that `is_there(index)`.
  template <typename IsThere>
  __device__ __forceinline__ void load_keys(const T* from, const IsThere& is_there) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = key_of(i);
      for_pieces<kHeadSize, 4>(threadIdx.x % 4, [&](auto words, int at, int offset) {
        const T* piece = from + key * kHeadSize + offset;
        if constexpr (std::is_same_v<IsThere, std::true_type>) {
          load_words<words.value>(keys[i] + at, piece);
        } else {
          load_words<words.value>(keys[i] + at, piece, is_there(key));
        }
      });
    }
  }
  template <typename IsThere>
  __device__ __forceinline__ void load_values(const T* from, const IsThere& is_there) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = value_of(i);
      for_pieces<kHeadSize, 8>(threadIdx.x % 32 / 4, [&](auto words, int at, int offset) {
        const T* piece = from + key * kHeadSize + offset;
        if constexpr (std::is_same_v<IsThere, std::true_type>) {
          load_words<words.value>(values[i] + at, piece);
        } else {
          load_words<words.value>(values[i] + at, piece, is_there(key));
        }
      });
    }
  }
  /// One row of keys, the tile's `index`th.
  __device__ __forceinline__ void load_key(const T* row, int index) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      for_pieces<kHeadSize, 4>(threadIdx.x % 4, [&](auto words, int at, int offset) {
        load_words<words.value>(keys[i] + at, row + offset, key_of(i) == index);
      });
    }
  }
  __device__ __forceinline__ void load_value(const T* row, int index) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      for_pieces<kHeadSize, 8>(threadIdx.x % 32 / 4, [&](auto words, int at, int offset) {
        load_words<words.value>(values[i] + at, row + offset, value_of(i) == index);
      });
    }
  }
  /// Writes a row of each.
  __device__ __forceinline__ void store_one(T* key, T* value, int index) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (key_of(i) != index) continue;
      for_pieces<kHeadSize, 4>(threadIdx.x % 4, [&](auto words, int at, int offset) {
        store_words<words.value>(key + offset, keys[i] + at);
      });
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (value_of(i) != index) continue;
      for_pieces<kHeadSize, 8>(threadIdx.x % 32 / 4, [&](auto words, int at, int offset) {
        store_words<words.value>(value + offset, values[i] + at);
      });
    }
  }
  /// The first `valid` keys or values; the others become zeros.
  __device__ __forceinline__ void load_first_keys(const T* from, int valid) {
    if (valid >= kTileKeys) {
      load_keys(from, std::true_type{});
    } else {
#pragma unroll
      for (int i = 0; i < kHeadSize / 8; ++i) keys[0][i] = keys[1][i] = 0;
      load_keys(from, [&](int key) { return key < valid; });
    }
  }
  __device__ __forceinline__ void load_first_values(const T* from, int valid) {
    if (valid >= kTileKeys) {
      load_values(from, std::true_type{});
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < kHeadSize / 16; ++j) values[i][j] = 0;
      }
      load_values(from, [&](int key) { return key < valid; });
    }
  }
};

}  // namespace inflight::cuda::decode
