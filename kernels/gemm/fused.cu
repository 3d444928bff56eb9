#include <algorithm>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {
namespace {

bool takes_narrow(const FusedProductParams& p, const OpContext& context) {
  const TensorView &x = p.linear.x, &g = p.norm_weight;
  const bool can_norm =
      !g || (x.dtype == DType::kBFloat16 && g.dtype == x.dtype &&
             x.shape[1] <= kMaxNarrowNormDepth && reinterpret_cast<uintptr_t>(g.data) % 16 == 0);
  return can_norm && choose_product(p.linear, context) == Product::kSkinny &&
         is_narrow(x.shape[0], p.linear.weight.shape[0], x.shape[1], context.num_multiprocessors);
}

/// The first two by slices, where the second begins with a norm of what the first makes: half of
/// the norm in each. Returns 2, or 0: nothing was done.
size_t split_norm_products(std::span<const FusedProductParams> products, const OpContext& context) {
  if (products.size() < 2) return 0;
  const FusedProductParams &first = products[0], &second = products[1];
  const TensorView &y = first.linear.y, &x = second.linear.x, &g = second.norm_weight;
  if (!g || first.norm_weight || first.is_gated || !first.residual || x.data != y.data ||
      x.shape != y.shape || x.dtype != DType::kBFloat16 || g.dtype != x.dtype ||
      reinterpret_cast<uintptr_t>(g.data) % 16 != 0)
    return 0;
  const int split = choose_slices(first, context), next = choose_slices(second, context);
  if (split == 0 || next == 0) return 0;

  const int64_t rows = x.shape[0], whole_rows = (rows + 3) / 4 * 4;
  SplitNorm norm{.weight = g.data,
                 .num_parts = num_norm_parts(first.linear.weight.shape[0]),
                 .epsilon = second.epsilon};
  const size_t scaled_bytes = (x.bytes() + 15) / 16 * 16;
  const size_t squares_bytes = whole_rows * norm.num_parts * sizeof(float);
  if (context.workspace.bytes < scaled_bytes + squares_bytes) return 0;
  norm.scaled = context.workspace.data;
  norm.squares = reinterpret_cast<float*>(static_cast<uint8_t*>(norm.scaled) + scaled_bytes);
  slice_product(first, split, context, {.y = norm});
  const TensorView none;
  TensorView scaled = x;
  scaled.data = norm.scaled;
  const FusedProductParams rest{
      .linear = {scaled, second.linear.weight, second.linear.bias, second.linear.y},
      .norm_weight = none,
      .epsilon = 0,
      .residual = second.residual,
      .is_gated = second.is_gated};
  slice_product(rest, next, context, {.x = norm});
  return 2;
}

}  // namespace

void few_rows_product(const FusedProductParams& p, const OpContext& context) {
  if (const int split = choose_slices(p, context)) return slice_product(p, split, context);
  const int64_t rows = p.linear.weight.shape[0], depth = p.linear.x.shape[1];
  skinny_product(p, plan_skinny(rows, depth, context.num_multiprocessors), context);
}

size_t fused_products(std::span<const FusedProductParams> products, OpContext& context) {
  const FusedProductParams& p = products[0];
  if (!context.grids_may_wait || !takes_narrow(p, context)) {
    if (const size_t count = split_norm_products(products, context)) return count;
    // A norm in passing cost these kernels more than one of its own.
    if (p.norm_weight) return 0;
    if (stripe_product(p, context)) return 1;
    if (choose_product(p.linear, context) != Product::kSkinny) return 0;
    few_rows_product(p, context);
    return 1;
  }
  const TensorView& x = p.linear.x;
  const auto joins = [&](const FusedProductParams& next) {
    return next.linear.x.shape[0] == x.shape[0] && next.linear.x.dtype == x.dtype &&
           next.linear.y.dtype == x.dtype && takes_narrow(next, context);
  };
  size_t count = 1;
  if (p.linear.y.dtype == x.dtype) {
    const size_t most = std::min<size_t>(products.size(), kMaxNarrowLinks);
    while (count < most && joins(products[count])) ++count;
  }
  narrow_product(products.first(count), plan_narrow(context.num_multiprocessors), context);
  return count;
}

}  // namespace inflight::cuda
