#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/math.h"
#include "kernels/core/cpu/parallel.h"

namespace inflight::cpu {

size_t attention_workspace_bytes(const AttentionParams&, int) { return 0; }

void attention(const AttentionParams& params, OpContext& context) {
  const TensorView& cache = params.kv_cache;
  const int64_t group = params.num_heads / params.num_kv_heads, D = params.head_size;
  dispatch_floating(params.q.dtype, [&]<typename T>(T) {
    dispatch_floating(cache.dtype, [&]<typename Cache>(Cache) {
      context.pool->parallel_for(params.kv_lengths.shape[0], [&](int64_t begin, int64_t end, int) {
        for (int64_t b = begin; b < end; ++b) {
          const auto* starts = params.query_starts.as<int32_t>();
          const auto* table = params.block_tables.as<int32_t>() + b * params.block_tables.shape[1];
          const int64_t kv_length = params.kv_lengths.as<int32_t>()[b];
          std::vector<float> scores(kv_length), sum(D);
          for (int64_t t = starts[b]; t < starts[b + 1]; ++t) {
            const int64_t seen = kv_length - (starts[b + 1] - t) + 1;
            for (int64_t h = 0; h < params.num_heads; ++h) {
              const T* q = params.q.as<T>() + (t * params.num_heads + h) * D;
              const auto key = [&](int64_t j) {
                return cache.as<Cache>() + table[j / cache.shape[3]] * cache.strides[0] +
                       h / group * cache.strides[2] + j % cache.shape[3] * D;
              };
              float largest = -INFINITY, total = 0;
              for (int64_t j = 0; j < seen; ++j) {
                float dot = 0;
                for (int64_t d = 0; d < D; ++d) dot += to_float(q[d]) * to_float(key(j)[d]);
                scores[j] = dot * params.scale;
                largest = std::max(largest, scores[j]);
              }
              std::fill(sum.begin(), sum.end(), 0.0f);
              for (int64_t j = 0; j < seen; ++j) {
                const float p = fast_exp(scores[j] - largest);
                total += p;
                const Cache* value = key(j) + cache.strides[1];
                for (int64_t d = 0; d < D; ++d) sum[d] += p * to_float(value[d]);
              }
              T* y = params.y.as<T>() + (t * params.num_heads + h) * D;
              for (int64_t d = 0; d < D; ++d) y[d] = from_float<T>(sum[d] / total);
            }
          }
        }
      });
    });
  });
}

}  // namespace inflight::cpu
