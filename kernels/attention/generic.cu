// Attention for whatever the fast kernels do not take. A thread block has one row of one head and
// walks its keys in tiles from position 0 with an online softmax (Milakov and Gimelshein, "Online
// normalizer calculation for softmax"): scores a warp to a key, then weighted values a thread to a
// component. The order of all sums is fixed by the row's own length.
#include <algorithm>

#include "kernels/attention/attention_cuda.h"
#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/reduce.cuh"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTileKeys = 256;
constexpr int kKeysAtOnce = 4;  // of a warp: loads in flight
constexpr int kMaxHeadSize = 1024;

struct GenericArgs {
  const void* q;
  const void* cache;
  void* y;
  const int32_t* block_tables;
  const int32_t* query_starts;  // null: every sequence has one row
  const int32_t* kv_lengths;
  int64_t block_stride;  // elements from block to block
  int64_t value_offset;  // elements from a key to its value
  int32_t num_sequences, max_blocks, tokens_per_block;
  int32_t num_heads, group, head_size;
  float scale;
  int32_t window, num_sinks;
  Rows rows;
};

/// The sequence that has `row`: the last one that starts at or before it.
__device__ int sequence_of(const int32_t* query_starts, int num_sequences, int row) {
  int low = 0, high = num_sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (query_starts[middle] <= row ? low : high) = middle;
  }
  return low;
}

/// Thread t owns components d = t % lanes + i * lanes of the output, for keys k = t / lanes mod
/// parts of each tile. kOwned is the number of i's. With a window the keys that the row sees are
/// numbered without a gap: sinks, then those of the window.
template <typename T, typename Cache, int kOwned, bool kWindow>
__global__ void __launch_bounds__(kThreads) generic_kernel(const GenericArgs args) {
  extern __shared__ float query[];  // [head_size], then parts x head_size sums
  __shared__ float weights[kTileKeys];
  __shared__ const Cache* keys[kTileKeys];
  __shared__ float scratch[32];

  const int row = blockIdx.y, head = blockIdx.x, size = args.head_size;
  wait_for_previous();
  let_next_start();
  int sequence = row, begin = row, count = 1;
  if (args.query_starts != nullptr) {
    if (row >= args.query_starts[args.num_sequences]) return;  // padding
    sequence = sequence_of(args.query_starts, args.num_sequences, row);
    begin = args.query_starts[sequence];
    count = args.query_starts[sequence + 1] - begin;
  }
  if (args.rows == Rows::kOne ? count != 1 : args.rows == Rows::kMany && count < 2) return;
  const int length = args.kv_lengths[sequence] - count + (row - begin) + 1;
  int visible = length, sinks = 0;
  if constexpr (kWindow) {
    const int first = max(length - args.window, 0);  // of the window
    sinks = min(args.num_sinks, first);
    visible = length - first + sinks;
  }

  const int64_t offset = (int64_t{row} * args.num_heads + head) * size;
  const T* q = static_cast<const T*>(args.q) + offset;
  T* y = static_cast<T*>(args.y) + offset;
  for (int d = threadIdx.x; d < size; d += kThreads) query[d] = to_float(q[d]);

  const int32_t* table = args.block_tables + int64_t{sequence} * args.max_blocks;
  const Cache* cache = static_cast<const Cache*>(args.cache) +
                       int64_t{head / args.group} * args.tokens_per_block * size;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int lanes = size < kThreads ? size : kThreads, parts = kThreads / lanes;
  const int part = threadIdx.x / lanes, first = threadIdx.x - part * lanes;
  float maximum = -INFINITY, sum = 0, output[kOwned] = {};

  for (int tile = 0; tile < visible; tile += kTileKeys) {
    const int num_keys = min(kTileKeys, visible - tile);
    __syncthreads();  // the tile before is done with
    for (int k = threadIdx.x; k < num_keys; k += kThreads) {
      int position = tile + k;
      if constexpr (kWindow) {
        if (position >= sinks) position += length - visible;
      }
      const int block = position / args.tokens_per_block;
      const int slot = position - block * args.tokens_per_block;
      keys[k] = cache + table[block] * args.block_stride + int64_t{slot} * size;
    }
    __syncthreads();

    float largest = -INFINITY;
    for (int k = warp * kKeysAtOnce; k < num_keys; k += kWarps * kKeysAtOnce) {
      float score[kKeysAtOnce] = {};
      for (int d = lane; d < size; d += 32) {
        const float component = query[d];
#pragma unroll
        for (int i = 0; i < kKeysAtOnce; ++i)
          score[i] += component * to_float(keys[min(k + i, num_keys - 1)][d]);
      }
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i) {
        score[i] = warp_sum(score[i]) * args.scale;
        largest = fmaxf(largest, score[i]);
        if (lane == 0 && k + i < num_keys) weights[k + i] = score[i];
      }
    }
    largest = fmaxf(maximum, block_max(largest, scratch));
    const float factor = expf(maximum - largest);
    maximum = largest;
    __syncthreads();  // scratch
    const int key = threadIdx.x;
    const float weight = key < num_keys ? expf(weights[key] - largest) : 0.0f;
    weights[key] = weight;
    sum = sum * factor + block_sum(weight, scratch);

#pragma unroll
    for (int i = 0; i < kOwned; ++i) output[i] *= factor;
    if (part < parts) {
#pragma unroll 4
      for (int k = part; k < num_keys; k += parts) {
        const Cache* value = keys[k] + args.value_offset;
#pragma unroll
        for (int i = 0; i < kOwned; ++i) {
          const int d = first + i * lanes;
          if (d < size) output[i] += weights[k] * to_float(value[d]);
        }
      }
    }
  }

  float* sums = query + size;
  if (part < parts) {
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int d = first + i * lanes;
      if (d < size) sums[part * size + d] = output[i];
    }
  }
  __syncthreads();
  for (int d = threadIdx.x; d < size; d += kThreads) {
    float total = 0;
    for (int i = 0; i < parts; ++i) total += sums[i * size + d];
    y[d] = from_float<T>(visible > 0 ? total / sum : 0.0f);
  }
}

template <typename T, typename Cache, bool kWindow>
void launch_generic(const GenericArgs& args, int64_t num_rows, const OpContext& context) {
  const int size = args.head_size, parts = size < kThreads ? kThreads / size : 1;
  const LaunchShape shape = {
      dim3(static_cast<unsigned>(args.num_heads), static_cast<unsigned>(num_rows)), dim3(kThreads),
      static_cast<size_t>(size) * (parts + 1) * sizeof(float)};
  if (size <= kThreads) return launch(generic_kernel<T, Cache, 1, kWindow>, shape, context, args);
  launch(generic_kernel<T, Cache, kMaxHeadSize / kThreads, kWindow>, shape, context, args);
}

}  // namespace

void attention_generic(const AttentionParams& params, OpContext& context, Rows rows) {
  if (params.head_size > kMaxHeadSize) {
    throw Error(ErrorCode::kUnsupported,
                concat("attention: head_size ", params.head_size, " is above ", kMaxHeadSize,
                       ", the most that CUDA takes"));
  }
  const TensorView& cache = params.kv_cache;
  const int64_t longest = params.block_tables.shape[1] * cache.shape[3];
  GenericArgs args = {.q = params.q.data,
                      .cache = cache.data,
                      .y = params.y.data,
                      .block_tables = params.block_tables.as<int32_t>(),
                      .query_starts = params.query_starts.as<int32_t>(),
                      .kv_lengths = params.kv_lengths.as<int32_t>(),
                      .block_stride = cache.strides[0],
                      .value_offset = cache.strides[1],
                      .num_sequences = static_cast<int32_t>(params.kv_lengths.shape[0]),
                      .max_blocks = static_cast<int32_t>(params.block_tables.shape[1]),
                      .tokens_per_block = static_cast<int32_t>(cache.shape[3]),
                      .num_heads = static_cast<int32_t>(params.num_heads),
                      .group = static_cast<int32_t>(params.num_heads / params.num_kv_heads),
                      .head_size = static_cast<int32_t>(params.head_size),
                      .scale = params.scale,
                      .window = static_cast<int32_t>(std::min(params.window, longest)),
                      .num_sinks = static_cast<int32_t>(std::min(params.num_sinks, longest)),
                      .rows = rows};
  // Rows are the grid's second axis, which takes so many.
  constexpr int64_t kMaxRows = 65535;
  check(params.q.shape[0] <= kMaxRows, "attention: ", params.q.shape[0], " rows are above ",
        kMaxRows, ", the most that CUDA takes in one step");
  with_floating(params.q.dtype, [&]<typename T>() {
    with_floating(cache.dtype, [&]<typename Cache>() {
      params.window > 0 ? launch_generic<T, Cache, true>(args, params.q.shape[0], context)
                        : launch_generic<T, Cache, false>(args, params.q.shape[0], context);
    });
  });
}

}  // namespace inflight::cuda
