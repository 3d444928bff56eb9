// What the sm_90a kernel's consumer warpgroups do with the stages: scores, softmax, outputs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/attention/prefill_pipeline.cuh"

namespace inflight::cuda::wgmma {

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ __forceinline__ uint32_t pack(__half, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

/// Of lane c of four, words[i] becomes lane i's words[c].
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool high = threadIdx.x & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t sent = high ? words[i] : words[i | bit];
      const uint32_t received = __shfl_xor_sync(~0u, sent, bit);
      (high ? words[i] : words[i | bit]) = received;
    }
  }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <typename T, int kHeadSize>
class Consumer : Pipeline<kHeadSize> {
  using Base = Pipeline<kHeadSize>;
  using Base::at, Base::keys, Base::queries, Base::shared, Base::values;
  static constexpr int kWarpgroups = Base::kWarpgroups, kTileKeys = Base::kTileKeys;
  static constexpr int kStages = Base::kStages, kQueryStages = Base::kQueryStages;
  static constexpr int kColumns = Base::kColumns, kKeyColumn = Base::kKeyColumn;
  static constexpr int kQueryColumn = Base::kQueryColumn;
  static constexpr int kQueryBytes = Base::kQueryBytes, kKeyBytes = Base::kKeyBytes;
  static constexpr int kTurn = 1;  // named barriers, one for each warpgroup
  static constexpr int kZeroed = kTurn + kWarpgroups;

 public:
  __device__ __forceinline__ explicit Consumer(const Base& pipeline) : Base(pipeline) {}

  /// All of the thread block's tiles, as one sequence of tiles of keys: the scores of a tile's
  /// first keys are computed while the tile before it meets its last values.
  __device__ __forceinline__ void consume(const PrefillArgs& args) {
    // Shuffled, the compiler knows it as the same for a warp.
    const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);
    const int row0 = warpgroup * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    const int row1 = row0 + 8;
    const int token0 = row0 / args.group, token1 = row1 / args.group;
    const int my_turn = kTurn + warpgroup, next_turn = kTurn + (warpgroup + 1) % kWarpgroups;
    const float scale = args.scale_log2e;
    Ring<kQueryStages> query_ring;
    Ring<kStages> key_ring, value_ring;
    float scores[kScores], outputs[kOutputs];
    uint32_t weights[kTileKeys / 16][4];
    wait_for_previous();
    if (warpgroup == 0) hopper::arrive_named(my_turn, 256);

    PrefillTile tile;
    uint32_t rows;  // address of this warpgroup's queries
    int visible0, visible1;
    const auto take_tile = [&] {
      hopper::wait(at(shared->query_full[query_ring.stage]), query_ring.parity);
      tile = shared->tiles[query_ring.stage];
      rows = queries + query_ring.stage * kQueryBytes + warpgroup * (64 * 128);
      visible0 = min(tile.position + token0 + 1, tile.kv_length);
      visible1 = min(tile.position + token1 + 1, tile.kv_length);
    };
    const auto release_queries = [&] {
      release(shared->query_empty[query_ring.stage]);
      query_ring.advance();
    };
    const auto wait_keys = [&] {
      hopper::wait(at(shared->key_full[key_ring.stage]), key_ring.parity);
    };
    const auto start_scores = [&] {
      hopper::pin(scores);
      hopper::open_products();
      score(scores, rows, keys + key_ring.stage * kKeyBytes);
    };
    const auto release_keys = [&] {
      hopper::pin(scores);
      release(shared->key_empty[key_ring.stage]);
      key_ring.advance();
    };
    const auto start_outputs = [&] {
      hopper::pin(outputs);
      hopper::open_products();
      weigh(outputs, weights, values + value_ring.stage * kKeyBytes);
    };
    const auto release_values = [&] {
      hopper::pin(outputs);
      release(shared->value_empty[value_ring.stage]);
      value_ring.advance();
    };
    Softmax softmax;
    // Never true. ptxas would move the wait that follows to before the softmax, but not over a
    // branch.
    const auto hold = [&] {
      if (softmax.sum0 + softmax.sum1 < 0) __trap();
    };

    take_tile();
    if (tile.num_tokens == 0) return;
    wait_keys();
    start_scores();
    hopper::wait_products<0>();
    release_keys();
    if (kTileKeys > tile.position + 1) mask(scores, 0, visible0, visible1);
    softmax.update(scores, scale);
    pack_weights(scores, weights);
    while (true) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) outputs[i] = 0;
      const int num_keys = tile.num_keys(), always_visible = tile.position + 1;
      int begin = kTileKeys;
      const auto next_keys = [&]<bool kMasked>() {
        wait_keys();
        hopper::sync_named(my_turn, 256);
        start_scores();
        hopper::wait(at(shared->value_full[value_ring.stage]), value_ring.parity);
        start_outputs();
        hopper::arrive_named(next_turn, 256);
        hopper::wait_products<1>();
        release_keys();
        if constexpr (kMasked) mask(scores, begin, visible0, visible1);
        softmax.update(scores, scale);
        hold();
        hopper::wait_products<0>();
        release_values();
        pack_weights(scores, weights);
#pragma unroll
        for (int i = 0; i < kOutputs; i += 4) {
          outputs[i] *= softmax.factor0, outputs[i + 1] *= softmax.factor0;
          outputs[i + 2] *= softmax.factor1, outputs[i + 3] *= softmax.factor1;
        }
      };
#pragma unroll 1
      for (; begin + kTileKeys <= always_visible; begin += kTileKeys)
        next_keys.template operator()<false>();
#pragma unroll 1
      for (; begin < num_keys; begin += kTileKeys) next_keys.template operator()<true>();
      release_queries();

      const PrefillTile done = tile;
      const float sum0 = softmax.sum0, sum1 = softmax.sum1;
      take_tile();
      const bool more = tile.num_tokens != 0;
      hopper::wait(at(shared->value_full[value_ring.stage]), value_ring.parity);
      const int used = done.kv_length - (num_keys - 1) / kTileKeys * kTileKeys;
      if (used < kTileKeys)
        zero_values(values + value_ring.stage * kKeyBytes, used, kZeroed + warpgroup);
      if (!more) {
        start_outputs();
        hopper::wait_products<0>();
        hopper::pin(outputs);
        store(args, done, row0, token0, sum0, outputs, 0);
        store(args, done, row1, token1, sum1, outputs, 2);
        return;
      }
      wait_keys();
      hopper::sync_named(my_turn, 256);
      start_scores();
      start_outputs();
      hopper::arrive_named(next_turn, 256);
      hopper::wait_products<1>();
      release_keys();
      if (kTileKeys > tile.position + 1) mask(scores, 0, visible0, visible1);
      softmax = Softmax();
      softmax.update(scores, scale);
      hold();
      hopper::wait_products<0>();
      release_values();
      pack_weights(scores, weights);
      store(args, done, row0, token0, sum0, outputs, 0);
      store(args, done, row1, token1, sum1, outputs, 2);
    }
  }

 private:
  /// One arrival for a warp.
  static __device__ __forceinline__ void release(const uint64_t& barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) hopper::arrive(at(barrier));
  }

  static constexpr int kScores = kTileKeys / 2;  // registers: 64 rows by 128 threads
  static constexpr int kOutputs = kHeadSize / 2;

  struct Softmax {
    float max0 = -INFINITY, max1 = -INFINITY, sum0 = 0, sum1 = 0;  // of this lane's two rows
    float factor0, factor1;                                        // for earlier outputs

    /// Scores become weights.
    __device__ __forceinline__ void update(float (&scores)[kScores], float scale) {
      float new0 = max0, new1 = max1;
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        new0 = fmaxf(new0, fmaxf(scores[i], scores[i + 1]));
        new1 = fmaxf(new1, fmaxf(scores[i + 2], scores[i + 3]));
      }
      // Each row sees its first tile's first key: the maxima are finite from there on.
      new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, 1));
      new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, 1));
      new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, 2));
      new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, 2));
      factor0 = exp2_approximate((max0 - new0) * scale);
      factor1 = exp2_approximate((max1 - new1) * scale);
      max0 = new0, max1 = new1;
      const float offset0 = new0 * scale, offset1 = new1 * scale;
      sum0 *= factor0, sum1 *= factor1;
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        scores[i] = exp2_approximate(fmaf(scores[i], scale, -offset0));
        scores[i + 1] = exp2_approximate(fmaf(scores[i + 1], scale, -offset0));
        scores[i + 2] = exp2_approximate(fmaf(scores[i + 2], scale, -offset1));
        scores[i + 3] = exp2_approximate(fmaf(scores[i + 3], scale, -offset1));
        sum0 += scores[i] + scores[i + 1];
        sum1 += scores[i + 2] + scores[i + 3];
      }
    }
  };

  static __device__ __forceinline__ void mask(float (&scores)[kScores], int begin, int visible0,
                                              int visible1) {
    const int key0 = begin + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      const int key = key0 + i * 2;
      if (key >= visible0) scores[i] = -INFINITY;
      if (key + 1 >= visible0) scores[i + 1] = -INFINITY;
      if (key >= visible1) scores[i + 2] = -INFINITY;
      if (key + 1 >= visible1) scores[i + 3] = -INFINITY;
    }
  }

  static __device__ __forceinline__ void pack_weights(const float (&scores)[kScores],
                                                      uint32_t (&weights)[kTileKeys / 16][4]) {
#pragma unroll
    for (int i = 0; i < kScores; i += 2)
      weights[i / 8][i % 8 / 2] = pack(T(), scores[i], scores[i + 1]);
  }

  /// scores = this warpgroup's queries . keys, enqueued.
  static __device__ __forceinline__ void score(float (&scores)[kScores], uint32_t rows,
                                               uint32_t key_tile) {
    const uint64_t left = hopper::descriptor(rows), right = hopper::descriptor(key_tile);
#pragma unroll
    for (int step = 0; step < kHeadSize / 16; ++step) {
      const int column = step / 4, within = step % 4 * 32;
      hopper::multiply(T(), scores, left + ((column * kQueryColumn + within) >> 4),
                       right + ((column * kKeyColumn + within) >> 4), step > 0);
    }
    hopper::close_products();
  }
  /// outputs += weights . values, enqueued.
  static __device__ __forceinline__ void weigh(float (&outputs)[kOutputs],
                                               const uint32_t (&weights)[kTileKeys / 16][4],
                                               uint32_t value_tile) {
    const uint64_t right = hopper::descriptor(value_tile, kKeyColumn);
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step)
      hopper::multiply(T(), outputs, weights[step], right + (step * 16 * 128 >> 4));
    hopper::close_products();
  }

  /// Unused slots of the last block may hold anything, and zero times NaN is NaN. Each warpgroup
  /// writes the same zeros and waits for its own.
  static __device__ __forceinline__ void zero_values(uint32_t value_tile, int first_row,
                                                     int barrier) {
    const int rows = kTileKeys - first_row;
    for (int i = threadIdx.x % 128; i < rows * kColumns * 8; i += 128) {
      const int column = i / (rows * 8), rest = i % (rows * 8);
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(
                       value_tile + column * kKeyColumn + first_row * 128 + rest * 16),
                   "r"(0)
                   : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    hopper::sync_named(barrier, 128);
  }

  /// One of a lane's two rows, `first` its first element in groups of 4 outputs. A quad's lanes
  /// exchange what they have, so that each writes 16 bytes at a time.
  static __device__ __forceinline__ void store(const PrefillArgs& args, const PrefillTile& tile,
                                               int row, int token, float sum,
                                               const float (&outputs)[kOutputs], int first) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = 1 / sum;
    const int head = row - token * args.group;
    const int64_t index =
        (static_cast<int64_t>(tile.first_row + token) * args.num_kv_heads + tile.kv_head) *
            args.group +
        head;
    uint8_t* to = static_cast<uint8_t*>(args.y) + index * (kHeadSize * 2) + threadIdx.x % 4 * 16;
#pragma unroll
    for (int i = 0; i < kOutputs; i += 16) {
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        words[j] = pack(T(), outputs[i + j * 4 + first] * inverse,
                        outputs[i + j * 4 + first + 1] * inverse);
      }
      transpose_quad(words);
      if (token < tile.num_tokens) {
        *reinterpret_cast<uint4*>(to + i * 4) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace inflight::cuda::wgmma
