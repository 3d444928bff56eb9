// Prefill with mma.sync, for any GPU since sm_80 and any block length: FlashAttention-2
// (arXiv 2307.08691), a warp with 16 rows of a tile, keys and values through cp.async in two
// stages.
#pragma once

#include "kernels/attention/prefill_softmax.cuh"
#include "kernels/attention/prefill_tiles.cuh"
#include "kernels/core/cuda/async_copy.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/mma.cuh"

namespace inflight::cuda {

inline constexpr int kMmaTileRows = 64;

void prefill_mma_bf16(const AttentionParams& params, OpContext& context);
void prefill_mma_fp16(const AttentionParams& params, OpContext& context);
void prefill_mma_window_bf16(const AttentionParams& params, OpContext& context);
void prefill_mma_window_fp16(const AttentionParams& params, OpContext& context);

#if defined(__CUDACC__)
namespace mma {

/// Over the 4 lanes that share a row of an accumulator.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

template <typename T, int kHeadSize, bool kWindow>
struct Kernel {
  static constexpr int kWarps = kMmaTileRows / 16;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTileKeys = kHeadSize > 128 ? 32 : 64;
  static constexpr int kChunks = kHeadSize / 8;  // 16 bytes each
  // A row's end is padded: 8 rows of the same chunk lie in different banks.
  static constexpr int kRowBytes = kHeadSize * 2 + 16;
  static constexpr int kStageBytes = 2 * kTileKeys * kRowBytes;
  static constexpr int kSharedBytes = kMmaTileRows * kRowBytes + 2 * kStageBytes;
  static constexpr int kSteps = kHeadSize / 16;  // along the head
  static_assert(kHeadSize % 16 == 0);

  /// Keys and values `begin`... of the tile's sequence into a stage; zeros beyond its end, since
  /// unused slots may hold anything, and for keys that no token of the tile sees, since their
  /// blocks may not be there.
  static __device__ __forceinline__ void load_keys(const PrefillArgs& args, const PrefillTile& tile,
                                                   int skipped_keys, int begin, uint32_t stage) {
    const int32_t* table =
        args.block_tables + static_cast<int64_t>(tile.sequence) * args.max_blocks;
    const int tokens_per_block = args.tokens_per_block;
#pragma unroll 4
    for (int i = threadIdx.x; i < kTileKeys * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      int key = begin + row;
      bool valid = key < tile.kv_length;
      if constexpr (kWindow) {
        valid = valid && (key > tile.position - args.window || key < args.num_sinks);
        if (key >= sink_keys<kTileKeys>(args)) key += skipped_keys;
      }
      const uint8_t* from = args.cache;
      if (valid) {
        const int index = static_cast<unsigned>(key) / static_cast<unsigned>(tokens_per_block);
        const int slot = key - index * tokens_per_block;
        from += table[index] * args.block_bytes +
                (static_cast<int64_t>(tile.kv_head) * tokens_per_block + slot) * (kHeadSize * 2) +
                chunk * 16;
      }
      const uint32_t to = stage + row * kRowBytes + chunk * 16;
      copy_async(to, from, valid);
      copy_async(to + kTileKeys * kRowBytes, valid ? from + args.value_bytes : from, valid);
    }
  }

  static __device__ __forceinline__ void load_queries(const PrefillArgs& args,
                                                      const PrefillTile& tile, uint32_t to) {
    const auto* q = static_cast<const uint8_t*>(args.q);
    const int rows = tile.num_tokens * args.group;
    for (int i = threadIdx.x; i < kMmaTileRows * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      const bool valid = row < rows;
      const uint8_t* from = valid ? q + row_offset(args, tile, row) + chunk * 16 : q;
      copy_async(to + row * kRowBytes + chunk * 16, from, valid);
    }
  }

  /// Bytes from the start of q or y to a row of the tile.
  static __device__ __forceinline__ int64_t row_offset(const PrefillArgs& args,
                                                       const PrefillTile& tile, int row) {
    const int token = static_cast<unsigned>(row) / static_cast<unsigned>(args.group);
    const int head = row - token * args.group;
    return ((static_cast<int64_t>(tile.first_row + token) * args.num_kv_heads + tile.kv_head) *
                args.group +
            head) *
           (kHeadSize * 2);
  }

  static __device__ __forceinline__ void run(const PrefillArgs& args, PrefillTile tile,
                                             uint32_t shared) {
    int skipped_keys = 0;
    if constexpr (kWindow) skipped_keys = skip_keys<kTileKeys>(args, tile);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t queries = shared, stages = shared + kMmaTileRows * kRowBytes;
    load_queries(args, tile, queries);
    load_keys(args, tile, skipped_keys, 0, stages);
    commit_copies();

    // This lane's two rows and the keys that they see.
    const int row0 = warp * 16 + lane / 4, row1 = row0 + 8;
    const unsigned group = args.group;
    const int visible0 = min(tile.position + static_cast<int>(row0 / group) + 1, tile.kv_length);
    const int visible1 = min(tile.position + static_cast<int>(row1 / group) + 1, tile.kv_length);
    const int always_visible = tile.position + 1;  // to all rows

    float outputs[2 * kSteps][4] = {};
    // Finite with a window: a row may see none of a tile's keys. Without one each row sees its
    // first tile's first key.
    constexpr float kLeast = kWindow ? -1e30f : -INFINITY;
    float max0 = kLeast, max1 = kLeast, sum0 = 0, sum1 = 0;
    const int num_keys = tile.num_keys();
    const uint32_t query_at = queries + (warp * 16 + lane % 16) * kRowBytes + (lane / 16) * 16;
    const uint32_t key_at = (lane / 16 * 8 + lane % 8) * kRowBytes + (lane / 8 % 2) * 16;
    const uint32_t value_at = (lane / 8 % 2 * 8 + lane % 8) * kRowBytes + (lane / 16) * 16;
    for (int begin = 0, stage = 0; begin < num_keys; begin += kTileKeys, stage ^= 1) {
      if (begin + kTileKeys < num_keys)
        load_keys(args, tile, skipped_keys, begin + kTileKeys, stages + (stage ^ 1) * kStageBytes);
      commit_copies();
      wait_copies<1>();
      __syncthreads();
      const uint32_t keys = stages + stage * kStageBytes, values = keys + kTileKeys * kRowBytes;

      float scores[kTileKeys / 8][4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t a[4];
        load_matrices(a, query_at + step * 32);
#pragma unroll
        for (int n = 0; n < kTileKeys / 16; ++n) {
          uint32_t b[4];
          load_matrices(b, keys + key_at + n * 16 * kRowBytes + step * 32);
          multiply_add<T>(scores[2 * n], a, b[0], b[1]);
          multiply_add<T>(scores[2 * n + 1], a, b[2], b[3]);
        }
      }
      if (begin + kTileKeys > always_visible) {
#pragma unroll
        for (int n = 0; n < kTileKeys / 8; ++n) {
          const int key = begin + n * 8 + lane % 4 * 2;
          if (key >= visible0) scores[n][0] = -INFINITY;
          if (key + 1 >= visible0) scores[n][1] = -INFINITY;
          if (key >= visible1) scores[n][2] = -INFINITY;
          if (key + 1 >= visible1) scores[n][3] = -INFINITY;
        }
      }
      if constexpr (kWindow) {
        if (begin < tile.position + tile.num_tokens - args.window) {
          const auto hide = [&](float& score, int key, int first) {
            if (key < first && key >= args.num_sinks) score = -INFINITY;
          };
#pragma unroll
          for (int n = 0; n < kTileKeys / 8; ++n) {
            const int key = begin + n * 8 + lane % 4 * 2;
            hide(scores[n][0], key, visible0 - args.window);
            hide(scores[n][1], key + 1, visible0 - args.window);
            hide(scores[n][2], key, visible1 - args.window);
            hide(scores[n][3], key + 1, visible1 - args.window);
          }
        }
      }

      float new0 = max0, new1 = max1;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
        new0 = fmaxf(new0, fmaxf(scores[n][0], scores[n][1]));
        new1 = fmaxf(new1, fmaxf(scores[n][2], scores[n][3]));
      }
      new0 = quad_max(new0);
      new1 = quad_max(new1);
      const float factor0 = exp2_fast((max0 - new0) * args.scale_log2e);
      const float factor1 = exp2_fast((max1 - new1) * args.scale_log2e);
      max0 = new0, max1 = new1;
      const float offset0 = new0 * args.scale_log2e, offset1 = new1 * args.scale_log2e;
      sum0 *= factor0, sum1 *= factor1;
      uint32_t weights[kTileKeys / 16][4];
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
        const float p0 = exp2_fast(fmaf(scores[n][0], args.scale_log2e, -offset0));
        const float p1 = exp2_fast(fmaf(scores[n][1], args.scale_log2e, -offset0));
        const float p2 = exp2_fast(fmaf(scores[n][2], args.scale_log2e, -offset1));
        const float p3 = exp2_fast(fmaf(scores[n][3], args.scale_log2e, -offset1));
        sum0 += p0 + p1, sum1 += p2 + p3;
        weights[n / 2][n % 2 * 2] = pack(T(), p0, p1);
        weights[n / 2][n % 2 * 2 + 1] = pack(T(), p2, p3);
      }
#pragma unroll
      for (int d = 0; d < 2 * kSteps; ++d) {
        outputs[d][0] *= factor0, outputs[d][1] *= factor0;
        outputs[d][2] *= factor1, outputs[d][3] *= factor1;
      }
#pragma unroll
      for (int n = 0; n < kTileKeys / 16; ++n) {
#pragma unroll
        for (int d = 0; d < kSteps; ++d) {
          uint32_t b[4];
          load_matrices_transposed(b, values + value_at + n * 16 * kRowBytes + d * 32);
          multiply_add<T>(outputs[2 * d], weights[n], b[0], b[1]);
          multiply_add<T>(outputs[2 * d + 1], weights[n], b[2], b[3]);
        }
      }
      __syncthreads();  // before the stage is overwritten
    }

    const float inverse0 = 1 / quad_sum(sum0), inverse1 = 1 / quad_sum(sum1);
    const int rows = tile.num_tokens * args.group;
    auto* y = static_cast<uint8_t*>(args.y) + lane % 4 * 4;
    uint8_t* y0 = y + row_offset(args, tile, row0);
    uint8_t* y1 = y + row_offset(args, tile, row1);
#pragma unroll
    for (int d = 0; d < 2 * kSteps; ++d) {
      if (row0 < rows) {
        *reinterpret_cast<uint32_t*>(y0 + d * 16) =
            pack(T(), outputs[d][0] * inverse0, outputs[d][1] * inverse0);
      }
      if (row1 < rows) {
        *reinterpret_cast<uint32_t*>(y1 + d * 16) =
            pack(T(), outputs[d][2] * inverse1, outputs[d][3] * inverse1);
      }
    }
  }
};

template <typename T, int kHeadSize, bool kWindow>
__global__ void __launch_bounds__(Kernel<T, kHeadSize, kWindow>::kThreads)
    prefill_mma_kernel(const PrefillArgs args) {
  extern __shared__ __align__(16) uint8_t shared[];
  TileWalk walk;
  PrefillTile tile;
  bool found = walk.find(args, snake(0), tile);
  wait_for_previous();
  let_next_start();
  for (int round = 1; found; ++round) {
    Kernel<T, kHeadSize, kWindow>::run(args, tile, shared_address(shared));
    found = walk.find(args, snake(round), tile);
  }
}

template <typename T, int kHeadSize, bool kWindow>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  using Body = Kernel<T, kHeadSize, kWindow>;
  constexpr int kBlocksEach = kHeadSize > 128 ? 1 : 2;  // of a multiprocessor
  const int64_t tiles = max_prefill_tiles(params, kMmaTileRows);
  const int64_t blocks = context.num_multiprocessors * kBlocksEach;
  allow_shared_bytes(prefill_mma_kernel<T, kHeadSize, kWindow>, Body::kSharedBytes);
  launch(prefill_mma_kernel<T, kHeadSize, kWindow>,
         {.grid = static_cast<unsigned>(tiles < blocks ? tiles : blocks),
          .block = Body::kThreads,
          .shared_bytes = Body::kSharedBytes},
         context, prefill_args(params, context, kMmaTileRows));
}

template <typename T, bool kWindow>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  with_head_size(params.head_size,
                 [&]<int kHeadSize>() { launch_prefill<T, kHeadSize, kWindow>(params, context); });
}

}  // namespace mma
#endif

}  // namespace inflight::cuda
