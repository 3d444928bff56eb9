// What a warp does with a tile of 16 keys and values: tensor core products and the softmax between
// them. A tile goes from memory straight to the registers that the products take. All is
// transposed, so that the few query heads are the short side of the product: scores' [keys, heads]
// = K q', outputs' [components, heads] = V' weights'. The order of a product's inner dimension and
// of its rows is free: it is chosen so that a lane's share of a row is 16 bytes at a time.
// Instructions: PTX ISA, "Warp-level matrix instructions".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/reduce.cuh"

namespace inflight::cuda::decode {

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

__device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t pair) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
}
__device__ __forceinline__ float2 unpack(__half, uint32_t pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
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
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
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

/// A warp's queries and running softmax of up to 8 kHeadBlocks heads. Lane l knows heads
/// 2 (l % 4) and the next (of each block of 8).
template <typename T, int kHeadSize, int kHeadBlocks>
struct HeadGroup {
  static constexpr int kSteps = kHeadSize / 16;
  // Scores may pass the subtracted maximum by so much (a factor of 2^8) before sums are rescaled.
  static constexpr float kSlack = 8.0f;

  uint32_t queries[kHeadBlocks][kHeadSize / 8];
  float outputs[kHeadBlocks][kSteps][4];
  float maxima[kHeadBlocks][2];
  float sums[kHeadBlocks][2];  // of this lane's keys alone

  /// `q` is [num_heads, kHeadSize].
  __device__ __forceinline__ void start(const T* q, int num_heads) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
      const int head = block * 8 + lane / 4;
#pragma unroll
      for (int i = 0; i < kHeadSize / 8; ++i) queries[block][i] = 0;
      for_pieces<kHeadSize, 4>(lane % 4, [&](auto words, int at, int offset) {
        load_words<words.value>(queries[block] + at, q + head * kHeadSize + offset,
                                head < num_heads);
      });
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) outputs[block][i][c] = 0;
      }
      maxima[block][0] = maxima[block][1] = -INFINITY;
      sums[block][0] = sums[block][1] = 0;
    }
  }

  using Scores = float[kHeadBlocks][4];
  __device__ __forceinline__ void score(const Tile<T, kHeadSize>& tile, Scores& scores) const {
    Scores odd_scores;  // two shorter chains
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 4; ++c) scores[block][c] = odd_scores[block][c] = 0;
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const uint32_t keys[4] = {tile.keys[0][2 * i], tile.keys[1][2 * i], tile.keys[0][2 * i + 1],
                                tile.keys[1][2 * i + 1]};
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block) {
        const uint32_t query[2] = {queries[block][2 * i], queries[block][2 * i + 1]};
        multiply_add<T>(i % 2 == 0 ? scores[block] : odd_scores[block], keys, query);
      }
    }
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 4; ++c) scores[block][c] += odd_scores[block][c];
    }
  }

  /// Moves maxima up to `scores` (in units of log2), and sums and outputs with them.
  __device__ __forceinline__ void raise_maxima(const Scores& scores) {
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

  using Weights = uint32_t[kHeadBlocks][2];
  /// Scores of the keys that `is_seen(index)`, at least 1, to weights. `scale` turns products into
  /// exponents of 2.
  template <typename IsSeen>
  __device__ __forceinline__ void weigh(Scores& scores, const IsSeen& is_seen, float scale,
                                        Weights& weights) {
    const int lane = threadIdx.x % 32;
    bool is_above = false;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[block][c] = is_seen(lane / 4 + c / 2 * 8) ? scores[block][c] * scale : -INFINITY;
        is_above |= scores[block][c] > maxima[block][c % 2] + kSlack;
      }
    }
    if (__any_sync(kFullWarp, is_above)) raise_maxima(scores);
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[block][c] = exp2_fast(scores[block][c] - maxima[block][c % 2]);
        sums[block][c % 2] += scores[block][c];
      }
      weights[block][0] = transposed(pack(T(), scores[block][0], scores[block][1]));
      weights[block][1] = transposed(pack(T(), scores[block][2], scores[block][3]));
    }
  }

  __device__ __forceinline__ void accumulate(const Tile<T, kHeadSize>& tile,
                                             const Weights& weights) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      // Two values' pairs of components to two components' pairs of values.
      const uint32_t values[4] = {__byte_perm(tile.values[0][i], tile.values[1][i], 0x5410),
                                  __byte_perm(tile.values[0][i], tile.values[1][i], 0x7632),
                                  __byte_perm(tile.values[2][i], tile.values[3][i], 0x5410),
                                  __byte_perm(tile.values[2][i], tile.values[3][i], 0x7632)};
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block)
        multiply_add<T>(outputs[block][i], values, weights[block]);
    }
  }

  /// Calls write(head, component, words, values, state) with 2 * words components at a time of the
  /// heads that this lane knows, and {maximum, sum} of the head.
  template <typename Write>
  __device__ __forceinline__ void finish(int num_heads, const Write& write) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
        for (int c = 0; c < 2; ++c)
          sums[block][c] += __shfl_xor_sync(kFullWarp, sums[block][c], offset);
      }
    }
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int head = block * 8 + lane % 4 * 2 + c;
        if (head >= num_heads) continue;
        const float2 state = make_float2(maxima[block][c], sums[block][c]);
        for_pieces<kHeadSize, 8>(lane / 4, [&](auto words, int at, int offset) {
          float values[2 * words.value];
#pragma unroll
          for (int i = 0; i < words.value; ++i) {
            values[2 * i] = outputs[block][at + i][c];
            values[2 * i + 1] = outputs[block][at + i][c + 2];
          }
          write(head, offset, words, values, state);
        });
      }
    }
  }
};

}  // namespace inflight::cuda::decode
