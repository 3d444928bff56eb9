#include <algorithm>

#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/fused_linear/compose.h"

namespace inflight::cpu {
namespace {

// cpu::linear's panels are as high: the weights go by as often as without panels here.
constexpr int64_t kPanelRows = 512;

template <typename T>
INFLIGHT_VECTORIZED void add_to(T* y, const T* residual, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = from_float<T>(to_float(residual[i]) + to_float(y[i]));
}

void add(const TensorView& residual, const TensorView& y, OpContext& context) {
  dispatch_floating(y.dtype, [&]<typename T>(T) {
    context.pool->parallel_for(
        y.num_elements(),
        [&](int64_t begin, int64_t end, int) {
          add_to(y.as<T>() + begin, residual.as<T>() + begin, end - begin);
        },
        grain_for(3 * sizeof(T)));
  });
}

}  // namespace

size_t fused_linear_workspace_bytes(const FusedLinearParams& p, int num_threads) {
  const Scratch scratch = scratch_of(p, std::min(p.x.shape[0], kPanelRows), nullptr);
  return scratch.bytes + linear_workspace_bytes(inner_linear(p, scratch), num_threads);
}

void fused_linear(const FusedLinearParams& params, OpContext& context) {
  compose(params, kPanelRows, {.linear_add = nullptr, .linear_silu_mul = nullptr, .add = add},
          context);
}

}  // namespace inflight::cpu
