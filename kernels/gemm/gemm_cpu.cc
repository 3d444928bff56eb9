#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/gemm/gemm.h"

namespace inflight::cpu {
namespace {

template <typename X, typename W>
INFLIGHT_VECTORIZED float dot(const X* x, const W* weight, int64_t size) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += to_float(x[i]) * to_float(weight[i]);
  return sum;
}

}  // namespace

size_t linear_workspace_bytes(const LinearParams&, int) { return 0; }

void linear(const LinearParams& params, OpContext& context) {
  const int64_t M = params.x.shape[0], K = params.x.shape[1], N = params.weight.shape[0];
  dispatch_floating(params.x.dtype, [&]<typename X>(X) {
    dispatch_floating(params.weight.dtype, [&]<typename W>(W) {
      dispatch_floating(params.y.dtype, [&]<typename Y>(Y) {
        context.pool->parallel_for(
            N,
            [&](int64_t begin, int64_t end, int) {
              for (int64_t n = begin; n < end; ++n) {
                float bias = 0;
                if (params.bias) {
                  dispatch_floating(params.bias.dtype, [&]<typename B>(B) {
                    bias = to_float(params.bias.as<B>()[n]);
                  });
                }
                for (int64_t m = 0; m < M; ++m) {
                  const float sum = dot(params.x.as<X>() + m * K, params.weight.as<W>() + n * K, K);
                  params.y.as<Y>()[m * N + n] = from_float<Y>(sum + bias);
                }
              }
            },
            grain_for(K * sizeof(W)));
      });
    });
  });
}

}  // namespace inflight::cpu
