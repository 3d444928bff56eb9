// What the sm_90a kernel's consumer warpgroups do with the stages: scores, softmax, outputs.
#pragma once

#include "kernels/attention/prefill_pipeline.cuh"
#include "kernels/attention/prefill_softmax.cuh"
#include "kernels/core/cuda/wgmma.cuh"

namespace inflight::cuda::wgmma {

using prefill::transpose_quad;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Descriptors in a tile that all of a warp's lanes name: reduced, the compiler has it in a uniform
/// register, as wgmma takes it, and adds there instead of moving each one.
class WarpTile {
 public:
  __device__ __forceinline__ WarpTile(uint32_t address, uint32_t outer_bytes)
      : low_(__reduce_or_sync(~0u, static_cast<uint32_t>(tile_descriptor(address, outer_bytes)))) {}
  /// So many bytes on, a multiple of 16.
  __device__ __forceinline__ uint64_t at(uint32_t bytes) const {
    return tile_descriptor(0) >> 32 << 32 | (low_ + (bytes >> 4));
  }

 private:
  uint32_t low_;
};

template <typename T, int kHeadSize, bool kDivided, bool kWindow>
class Consumer : Pipeline<kHeadSize, kDivided, kWindow> {
  using Base = Pipeline<kHeadSize, kDivided, kWindow>;
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
    if (warpgroup == 0) arrive_named(my_turn, 256);

    typename Base::Part part;
    Ring<Base::kPartStages> part_ring;
    uint32_t rows;  // address of this warpgroup's queries
    int visible0, visible1;
    const auto take_part = [&] {
      wait(at(shared->query_full[query_ring.stage]), query_ring.parity);
      part.take(shared->parts[part_ring.stage]);
      part_ring.advance();
      const PrefillTile& tile = part.tile();
      rows = queries + query_ring.stage * kQueryBytes + warpgroup * (64 * 128);
      visible0 = min(tile.position + token0 + 1, tile.kv_length);
      visible1 = min(tile.position + token1 + 1, tile.kv_length);
    };
    const auto release_queries = [&] {
      release(shared->query_empty[query_ring.stage]);
      query_ring.advance();
    };
    const auto mask_first = [&] {
      if (part.first_key() + kTileKeys > part.tile().position + 1)
        mask(scores, part.first_key(), visible0, visible1);
      if constexpr (kWindow) {
        if (part.first_key() < hidden_end(args, part.tile()))
          mask_before(args, scores, part.first_key(), visible0, visible1);
      }
    };
    const auto wait_keys = [&] { wait(at(shared->key_full[key_ring.stage]), key_ring.parity); };
    const auto start_scores = [&] {
      pin(scores);
      begin_products();
      score(scores, rows, keys + key_ring.stage * kKeyBytes);
    };
    const auto release_keys = [&] {
      pin(scores);
      release(shared->key_empty[key_ring.stage]);
      key_ring.advance();
    };
    const auto start_outputs = [&] {
      pin(outputs);
      begin_products();
      weigh(outputs, weights, values + value_ring.stage * kKeyBytes);
    };
    const auto release_values = [&] {
      pin(outputs);
      release(shared->value_empty[value_ring.stage]);
      value_ring.advance();
    };
    RowSoftmax softmax;
    // Never true. ptxas would move the wait that follows to before the weights so far, but not over
    // a branch.
    const auto hold = [&] {
      if (softmax.sum0 + softmax.sum1 < 0) __trap();
    };

    const auto finish = [&](const auto& done, RowSoftmax& sums) {
      if constexpr (kDivided) {
        if (done.num_parts > 1 && !merge(args, done, sums, outputs, warpgroup)) return;
      }
      store(args, done.tile, row0, token0, sums.sum0, outputs, 0);
      store(args, done.tile, row1, token1, sums.sum1, outputs, 2);
    };

    take_part();
    if (part.tile().num_tokens == 0) return;
    wait_keys();
    start_scores();
    wait_products<0>();
    release_keys();
    mask_first();
    softmax.update(scores, scale);
    pack_weights(scores, weights);
    while (true) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) outputs[i] = 0;
      const int end_key = part.end_key(), always_visible = part.tile().position + 1;
      // A whole tile ends where all of its rows see, or later.
      const int end_unmasked =
          kDivided ? min(end_key + kTileKeys - 1, always_visible) : always_visible;
      const int begin_unmasked = kWindow ? hidden_end(args, part.tile()) : 0;
      int begin = part.first_key() + kTileKeys;
      const auto next_keys = [&]<bool kMasked>() {
        wait_keys();
        sync_named(my_turn, 256);
        start_scores();
        wait(at(shared->value_full[value_ring.stage]), value_ring.parity);
        start_outputs();
        arrive_named(next_turn, 256);
        wait_products<1>();
        release_keys();
        if constexpr (kMasked) {
          mask(scores, begin, visible0, visible1);
          if constexpr (kWindow) mask_before(args, scores, begin, visible0, visible1);
        }
        // By then the outputs are there, and weights are packed while the others are computed.
        softmax.update(scores, scale, [&] {
          hold();
          wait_products<0>();
          release_values();
          if (softmax.is_raised) scale_outputs(outputs, softmax);
        });
        pack_weights(scores, weights);
      };
      if constexpr (kWindow) {
#pragma unroll 1
        for (; begin < min(begin_unmasked, end_key); begin += kTileKeys)
          next_keys.template operator()<true>();
      }
#pragma unroll 1
      for (; begin + kTileKeys <= end_unmasked; begin += kTileKeys)
        next_keys.template operator()<false>();
#pragma unroll 1
      for (; begin < end_key; begin += kTileKeys) next_keys.template operator()<true>();
      release_queries();

      const auto done = part.copy();
      RowSoftmax done_softmax = softmax;
      take_part();
      const bool more = part.tile().num_tokens != 0;
      wait(at(shared->value_full[value_ring.stage]), value_ring.parity);
      const int used = done.tile.kv_length - (end_key - 1) / kTileKeys * kTileKeys;
      if (used < kTileKeys)
        zero_values(values + value_ring.stage * kKeyBytes, used, kZeroed + warpgroup);
      if (!more) {
        start_outputs();
        wait_products<0>();
        pin(outputs);
        finish(done, done_softmax);
        return;
      }
      wait_keys();
      sync_named(my_turn, 256);
      start_scores();
      start_outputs();
      arrive_named(next_turn, 256);
      wait_products<1>();
      release_keys();
      mask_first();
      softmax = RowSoftmax();
      softmax.update(scores, scale);
      hold();
      wait_products<0>();
      release_values();
      pack_weights(scores, weights);
      finish(done, done_softmax);
    }
  }

 private:
  /// One arrival for a warp.
  static __device__ __forceinline__ void release(const uint64_t& barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(at(barrier));
  }

  static constexpr int kScores = kTileKeys / 2;  // registers: 64 rows by 128 threads
  static constexpr int kOutputs = kHeadSize / 2;
  // Weights that T holds, and sums of them that leave float32 room for values.
  using RowSoftmax = prefill::Softmax<kScores, std::is_same_v<T, __half> ? 8 : 24>;

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

  /// The end of the keys that the window of the tile's last token has left behind.
  static __device__ __forceinline__ int hidden_end(const PrefillArgs& args,
                                                   const PrefillTile& tile) {
    return tile.position + tile.num_tokens - args.window;
  }
  /// A window: rows see those of its keys up to `visible`, and the sinks.
  static __device__ __forceinline__ void mask_before(const PrefillArgs& args,
                                                     float (&scores)[kScores], int begin,
                                                     int visible0, int visible1) {
    const int key0 = begin + threadIdx.x % 4 * 2;
    const int first0 = visible0 - args.window, first1 = visible1 - args.window;
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      const int key = key0 + i * 2;
      const bool is_sink = key < args.num_sinks, is_next_sink = key + 1 < args.num_sinks;
      if (key < first0 && !is_sink) scores[i] = -INFINITY;
      if (key + 1 < first0 && !is_next_sink) scores[i + 1] = -INFINITY;
      if (key < first1 && !is_sink) scores[i + 2] = -INFINITY;
      if (key + 1 < first1 && !is_next_sink) scores[i + 3] = -INFINITY;
    }
  }

  static __device__ __forceinline__ void scale_outputs(float (&outputs)[kOutputs],
                                                       const RowSoftmax& softmax) {
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
      outputs[i] *= softmax.factor0, outputs[i + 1] *= softmax.factor0;
      outputs[i + 2] *= softmax.factor1, outputs[i + 3] *= softmax.factor1;
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
    const WarpTile left(rows, 16), right(key_tile, 16);
#pragma unroll
    for (int step = 0; step < kHeadSize / 16; ++step) {
      const int column = step / 4, within = step % 4 * 32;
      multiply<T>(scores, left.at(column * kQueryColumn + within),
                  right.at(column * kKeyColumn + within), step > 0);
    }
    commit_products();
  }
  /// outputs += weights . values, enqueued.
  static __device__ __forceinline__ void weigh(float (&outputs)[kOutputs],
                                               const uint32_t (&weights)[kTileKeys / 16][4],
                                               uint32_t value_tile) {
    const WarpTile right(value_tile, kKeyColumn);
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step)
      add_product<T>(outputs, weights[step], right.at(step * 16 * 128));
    commit_products();
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
    fence_shared();
    sync_named(barrier, 128);
  }

  /// Leaves this part's outputs for the last of the tile's warpgroups with the same rows, which
  /// gets the sum of all of them and true. Always summed in order: the bits do not depend on who is
  /// last.
  __device__ __forceinline__ bool merge(const PrefillArgs& args, const PrefillPart& part,
                                        RowSoftmax& softmax, float (&outputs)[kOutputs],
                                        int warpgroup) {
    constexpr int kVecs = kOutputs / 4 + 1;  // of a thread
    constexpr int kNextPart = kWarpgroups * kVecs * 128;
    const int thread = threadIdx.x % 128;
    float4* first = reinterpret_cast<float4*>(args.partials) +
                    static_cast<int64_t>(part.number) * kNextPart + warpgroup * kVecs * 128 +
                    thread;
    float4* own = first + part.part * kNextPart;
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
      __stcg(own + i / 4 * 128,
             make_float4(outputs[i], outputs[i + 1], outputs[i + 2], outputs[i + 3]));
    }
    __stcg(own + (kVecs - 1) * 128,
           make_float4(softmax.reference0, softmax.reference1, softmax.sum0, softmax.sum1));
    __threadfence();
    sync_named(kZeroed + warpgroup, 128);
    if (thread == 0) {
      uint32_t* counter = args.counters + part.number / part.max_parts * kWarpgroups + warpgroup;
      const bool is_last = atomicAdd(counter, 1u) == part.num_parts - 1;
      if (is_last) *counter = 0;
      shared->is_last[warpgroup] = is_last;
      __threadfence();
    }
    sync_named(kZeroed + warpgroup, 128);
    const bool is_last = shared->is_last[warpgroup];
    sync_named(kZeroed + warpgroup, 128);
    if (!is_last) return false;
    RowSoftmax total;
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) outputs[i] = 0;
#pragma unroll 1
    for (int i = 0; i < part.num_parts; ++i) {
      const float4* from = first + i * kNextPart;
      const float4 sums = __ldcg(from + (kVecs - 1) * 128);
      const float max0 = fmaxf(total.reference0, sums.x);
      const float max1 = fmaxf(total.reference1, sums.y);
      const float old0 = exp2_fast((total.reference0 - max0) * args.scale_log2e);
      const float old1 = exp2_fast((total.reference1 - max1) * args.scale_log2e);
      const float new0 = exp2_fast((sums.x - max0) * args.scale_log2e);
      const float new1 = exp2_fast((sums.y - max1) * args.scale_log2e);
      total.reference0 = max0, total.reference1 = max1;
      total.sum0 = total.sum0 * old0 + sums.z * new0;
      total.sum1 = total.sum1 * old1 + sums.w * new1;
#pragma unroll
      for (int j = 0; j < kOutputs; j += 4) {
        const float4 more = __ldcg(from + j / 4 * 128);
        outputs[j] = outputs[j] * old0 + more.x * new0;
        outputs[j + 1] = outputs[j + 1] * old0 + more.y * new0;
        outputs[j + 2] = outputs[j + 2] * old1 + more.z * new1;
        outputs[j + 3] = outputs[j + 3] * old1 + more.w * new1;
      }
    }
    softmax = total;
    return true;
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
        const int k = i + j * 4;
        words[j] = k < kOutputs
                       ? pack(T(), outputs[k + first] * inverse, outputs[k + first + 1] * inverse)
                       : 0;
      }
      transpose_quad(words);
      const bool exists =
          kOutputs % 16 == 0 || i + static_cast<int>(threadIdx.x) % 4 * 4 < kOutputs;
      if (token < tile.num_tokens && exists) {
        *reinterpret_cast<uint4*>(to + i * 4) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace inflight::cuda::wgmma
