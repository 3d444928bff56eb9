#include <algorithm>
#include <vector>

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

/// Rows of a gate's panel that the workspace is made for: all where they are few, else so many that
/// activations and workspace together take no more than with every step's rows in the arena.
int64_t most_panel_rows(int64_t num_rows) {
  constexpr int64_t kFewRows = 1024;
  return std::min(num_rows, std::max(kFewRows, num_rows * 2 / 3));
}

size_t bytes_for(const FusedLinearParams& p, int64_t panel_rows) {
  const Scratch scratch = scratch_of(p, panel_rows, nullptr);
  return scratch.bytes + linear_workspace_bytes(inner_linear(p, scratch));
}

FusedProductParams product_of(const FusedLinearParams& p) {
  return {.linear = {.x = p.x, .weight = p.weight, .bias = p.bias, .y = p.y},
          .norm_weight = p.norm_weight,
          .epsilon = p.epsilon,
          .residual = p.residual,
          .is_gated = p.is_gated};
}

}  // namespace

size_t fused_linears_at_once(std::span<const FusedLinearParams> run, OpContext& context) {
  std::vector<FusedProductParams> products;
  for (const FusedLinearParams& p : run) {
    if (p.y.num_elements() == 0) return 0;
    products.push_back(product_of(p));
  }
  return fused_products(products, context);
}

size_t fused_linear_workspace_bytes(const FusedLinearParams& p) {
  return bytes_for(p, most_panel_rows(p.x.shape[0]));
}

void fused_linear(const FusedLinearParams& p, OpContext& context) {
  const FusedProductParams product = product_of(p);
  if (fused_products({&product, 1}, context) == 1) return;
  // The workspace was made for the largest step: a smaller one may fit it in a single panel.
  const int64_t num_rows = p.x.shape[0];
  const bool fits = bytes_for(p, num_rows) <= context.workspace.bytes;
  compose(p, fits ? num_rows : most_panel_rows(num_rows),
          {.linear_add = linear_add, .linear_silu_mul = linear_silu_mul, .add = add}, context);
}

}  // namespace inflight::cuda
