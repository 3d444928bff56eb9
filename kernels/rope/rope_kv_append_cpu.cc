#include "kernels/core/check.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/rope/rope_kv_append.h"

namespace inflight::cpu {
namespace {

/// One head: the first half of the rotated dimensions is paired with the second.
template <typename Y, typename X>
INFLIGHT_VECTORIZED void rotate_head(Y* y, const X* x, const float* cosines, const float* sines,
                                     int64_t half, int64_t head_size) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float a = to_float(x[i]), b = to_float(x[half + i]);
    y[i] = from_float<Y>(a * cosines[i] - b * sines[i]);
    y[half + i] = from_float<Y>(b * cosines[i] + a * sines[i]);
  }
#pragma omp simd
  for (int64_t i = 2 * half; i < head_size; ++i) y[i] = from_float<Y>(to_float(x[i]));
}

template <typename T, typename Cache>
void append_token(const RopeKvAppendParams& params, int64_t t) {
  const int64_t num_heads = params.num_heads, num_kv_heads = params.num_kv_heads;
  const int64_t head_size = params.head_size, half = params.cos_sin.shape[1] / 2;
  const float* cosines = params.cos_sin.as<float>() + t * 2 * half;
  const float* sines = cosines + half;
  const T* row = params.qkv.as<T>() + t * (num_heads + 2 * num_kv_heads) * head_size;
  T* q = params.q.as<T>() + t * num_heads * head_size;
  for (int64_t head = 0; head < num_heads; ++head)
    rotate_head(q + head * head_size, row + head * head_size, cosines, sines, half, head_size);

  const TensorView& cache = params.kv_cache;
  const int64_t slot = params.slots.as<int32_t>()[t], tokens_per_block = cache.shape[3];
  if (slot < 0) return;
  check(slot < cache.shape[0] * tokens_per_block, "rope_kv_append: slots[", t, "] = ", slot,
        " is beyond the cache's ", cache.shape[0] * tokens_per_block);
  Cache* keys = cache.as<Cache>() + slot / tokens_per_block * cache.strides[0] +
                slot % tokens_per_block * head_size;
  Cache* values = keys + cache.strides[1];
  const T* k = row + num_heads * head_size;
  const T* v = k + num_kv_heads * head_size;
  for (int64_t head = 0; head < num_kv_heads; ++head) {
    const int64_t from = head * head_size, to = head * cache.strides[2];
    rotate_head(keys + to, k + from, cosines, sines, half, head_size);
    rotate_head(values + to, v + from, cosines, sines, 0, head_size);
  }
}

}  // namespace

void rope_kv_append(const RopeKvAppendParams& params, OpContext& context) {
  dispatch_floating(params.qkv.dtype, [&]<typename T>(T) {
    dispatch_floating(params.kv_cache.dtype, [&]<typename Cache>(Cache) {
      context.pool->parallel_for(
          params.qkv.shape[0],
          [&](int64_t begin, int64_t end, int) {
            for (int64_t t = begin; t < end; ++t) append_token<T, Cache>(params, t);
          },
          grain_for(2 * params.qkv.shape[1] * sizeof(T)));
    });
  });
}

}  // namespace inflight::cpu
