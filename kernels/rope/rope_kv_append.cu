#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/vec.cuh"
#include "kernels/rope/rope_kv_append.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;

struct Shape {
  int num_heads, num_kv_heads, head_size, half;  // half of the rotated dimensions
  int tokens_per_block;
  int64_t num_slots, block_stride, kv_stride, head_stride;  // of the cache, elements
};

/// Where head `head` of a token's qkv row goes: the q output, the keys, the values, or nowhere.
template <typename T, typename Cache>
struct Target {
  T* q = nullptr;
  Cache* cache = nullptr;
};
template <typename T, typename Cache>
__device__ Target<T, Cache> target_of(const Shape& s, int head, int64_t t, int slot, T* q,
                                      Cache* cache) {
  Target<T, Cache> target;
  if (head < s.num_heads) {
    target.q = q + (t * s.num_heads + head) * s.head_size;
  } else if (slot >= 0 && slot < s.num_slots) {
    const bool is_value = head >= s.num_heads + s.num_kv_heads;
    const int kv_head = head - s.num_heads - (is_value ? s.num_kv_heads : 0);
    target.cache = cache + slot / s.tokens_per_block * s.block_stride + is_value * s.kv_stride +
                   kv_head * s.head_stride + int64_t{slot % s.tokens_per_block} * s.head_size;
  }
  return target;
}

/// One block a token. A thread turns kVec pairs (i, half + i) of a head at once; every dimension is
/// rotated and its dtype is the cache's. Values are copied by the same loop.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    rope_append_pairs(const T* qkv, const float* cos_sin, const int32_t* slots, T* q, T* cache,
                      const Shape s) {
  using V = Vec<T, kVec>;
  let_next_start();
  wait_for_previous();
  const int64_t t = blockIdx.x;
  const int slot = slots[t];
  const int items_per_head = s.half / kVec;
  const int num_heads = s.num_heads + 2 * s.num_kv_heads;
  const float* cosines = cos_sin + t * 2 * s.half;
  for (int item = threadIdx.x; item < num_heads * items_per_head; item += kThreads) {
    const int head = item / items_per_head, i = item % items_per_head * kVec;
    const Target<T, T> target = target_of(s, head, t, slot, q, cache);
    T* out = target.q != nullptr ? target.q : target.cache;
    if (out == nullptr) continue;
    const T* x = qkv + (t * num_heads + head) * s.head_size;
    V a = load_vec<T, kVec>(x + i), b = load_vec<T, kVec>(x + s.half + i);
    if (head < s.num_heads + s.num_kv_heads) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const float cosine = cosines[i + j], sine = cosines[s.half + i + j];
        const float u = to_float(a[j]), v = to_float(b[j]);
        a[j] = from_float<T>(u * cosine - v * sine);
        b[j] = from_float<T>(v * cosine + u * sine);
      }
    }
    store_vec<T, kVec>(out + i, a);
    store_vec<T, kVec>(out + s.half + i, b);
  }
}

/// The same an element at a time, for any sizes and any dtype of the cache.
template <typename T, typename Cache>
__global__ void __launch_bounds__(kThreads)
    rope_append_elements(const T* qkv, const float* cos_sin, const int32_t* slots, T* q,
                         Cache* cache, const Shape s) {
  let_next_start();
  wait_for_previous();
  const int64_t t = blockIdx.x;
  const int slot = slots[t];
  const int num_heads = s.num_heads + 2 * s.num_kv_heads;
  const float* cosines = cos_sin + t * 2 * s.half;
  const float* sines = cosines + s.half;
  for (int item = threadIdx.x; item < num_heads * s.head_size; item += kThreads) {
    const int head = item / s.head_size, i = item % s.head_size;
    const Target<T, Cache> target = target_of(s, head, t, slot, q, cache);
    const T* x = qkv + (t * num_heads + head) * s.head_size;
    float value = to_float(x[i]);
    if (head < s.num_heads + s.num_kv_heads) {
      if (i < s.half) {
        value = value * cosines[i] - to_float(x[s.half + i]) * sines[i];
      } else if (i < 2 * s.half) {
        value = value * cosines[i - s.half] + to_float(x[i - s.half]) * sines[i - s.half];
      }
    }
    if (target.q != nullptr) target.q[i] = from_float<T>(value);
    if (target.cache != nullptr) target.cache[i] = from_float<Cache>(value);
  }
}

}  // namespace

void rope_kv_append(const RopeKvAppendParams& params, OpContext& context) {
  const TensorView& cache = params.kv_cache;
  const Shape shape = {
      .num_heads = static_cast<int>(params.num_heads),
      .num_kv_heads = static_cast<int>(params.num_kv_heads),
      .head_size = static_cast<int>(params.head_size),
      .half = static_cast<int>(params.cos_sin.shape[1] / 2),
      .tokens_per_block = static_cast<int>(cache.shape[3]),
      .num_slots = cache.shape[0] * cache.shape[3],
      .block_stride = cache.strides[0],
      .kv_stride = cache.strides[1],
      .head_stride = cache.strides[2],
  };
  const LaunchShape grid = {dim3(static_cast<unsigned>(params.qkv.shape[0])), dim3(kThreads)};
  with_floating(params.qkv.dtype, [&]<typename T>() {
    const auto* qkv = params.qkv.as<const T>();
    const auto* cos_sin = params.cos_sin.as<const float>();
    const auto* slots = params.slots.as<const int32_t>();
    const bool in_pairs = cache.dtype == params.qkv.dtype && 2 * shape.half == shape.head_size &&
                          is_vectorizable<T>(qkv, shape.half) &&
                          is_vectorizable<T>(params.q.data, shape.half) &&
                          is_vectorizable<T>(cache.data, shape.block_stride);
    if (in_pairs) {
      launch(rope_append_pairs<T, kVecSize<T>>, grid, context, qkv, cos_sin, slots,
             params.q.as<T>(), cache.as<T>(), shape);
      return;
    }
    with_floating(cache.dtype, [&]<typename Cache>() {
      launch(rope_append_elements<T, Cache>, grid, context, qkv, cos_sin, slots, params.q.as<T>(),
             cache.as<Cache>(), shape);
    });
  });
}

}  // namespace inflight::cuda
