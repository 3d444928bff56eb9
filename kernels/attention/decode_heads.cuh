// A warp's query heads: their products with a tile's keys and values and the softmax between them.
#pragma once

#include "kernels/attention/decode_tile.cuh"

namespace inflight::cuda::decode {

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
    start([&](auto words, uint32_t* to, int head, int offset) {
      load_words<words.value>(to, q + head * kHeadSize + offset, head < num_heads);
    });
  }
  /// load(words, to, head, offset) reads a query's words where there is such a head.
  template <typename Load>
  __device__ __forceinline__ void start(const Load& load) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kHeadSize / 8; ++i) queries[block][i] = 0;
      for_pieces<kHeadSize, 4>(lane % 4, [&](auto words, int at, int offset) {
        load(words, queries[block] + at, block * 8 + lane / 4, offset);
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
        multiply_add<T>(i % 2 == 0 ? scores[block] : odd_scores[block], keys, query[0], query[1]);
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
        multiply_add<T>(outputs[block][i], values, weights[block][0], weights[block][1]);
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
