#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/vec.cuh"
#include "kernels/fused_linear/compose.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads) add_kernel(const T* residual, T* y, int64_t count) {
  let_next_start();
  wait_for_previous();
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVec;
  if (i >= count) return;
  const auto r = load_vec<T, kVec>(residual + i);
  auto v = load_vec<T, kVec>(y + i);
#pragma unroll
  for (int j = 0; j < kVec; ++j) v[j] = from_float<T>(to_float(r[j]) + to_float(v[j]));
  store_vec<T, kVec>(y + i, v);
}

template <typename T, int kVec>
void run_add(const TensorView& residual, const TensorView& y, const OpContext& context) {
  const int64_t count = y.num_elements();
  const auto blocks = static_cast<unsigned>((count / kVec + kThreads - 1) / kThreads);
  launch(add_kernel<T, kVec>, {dim3(blocks), dim3(kThreads)}, context, residual.as<const T>(),
         y.as<T>(), count);
}

void add(const TensorView& residual, const TensorView& y, OpContext& context) {
  with_floating(y.dtype, [&]<typename T>() {
    const int64_t count = y.num_elements();
    const bool vectors =
        is_vectorizable<T>(residual.data, count) && is_vectorizable<T>(y.data, count);
    (vectors ? run_add<T, kVecSize<T>> : run_add<T, 1>)(residual, y, context);
  });
}

/// Rows of a panel that the workspace is made for: all where they are few, else most, so that
/// activations and workspace together take no more than with every step's rows in the arena.
int64_t most_rows(int64_t num_rows) {
  constexpr int64_t kFewRows = 1024;
  return std::min(num_rows, std::max(kFewRows, num_rows * 3 / 4));
}

size_t linear_bytes(const FusedLinearParams& p) {
  return linear_workspace_bytes(panel_linear(p, panel_scratch(p, 1, nullptr), p.x, p.y));
}

}  // namespace

size_t fused_linear_workspace_bytes(const FusedLinearParams& p) {
  return panel_scratch(p, most_rows(p.x.shape[0]), nullptr).bytes + linear_bytes(p);
}

void fused_linear(const FusedLinearParams& p, OpContext& context) {
  const FusedProductParams product{
      .linear = {.x = p.x, .weight = p.weight, .bias = p.bias, .y = p.y},
      .norm_weight = p.norm_weight,
      .epsilon = p.epsilon,
      .residual = p.residual,
      .is_gated = p.is_gated,
      .prefetch = p.prefetch};
  if (fused_product(product, context)) return;
  // The workspace was made for the largest step: a smaller one may fit it in a single panel.
  const int64_t num_rows = p.x.shape[0];
  const size_t single = panel_scratch(p, num_rows, nullptr).bytes + linear_bytes(p);
  const int64_t max_rows = single <= context.workspace.bytes ? num_rows : most_rows(num_rows);
  compose(p, max_rows, {.linear_add = linear_add, .add = add}, context);
}

}  // namespace inflight::cuda
