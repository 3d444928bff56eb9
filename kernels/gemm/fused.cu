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

/// A product with half of a norm in it. Of these one, or none, has a plan.
struct NormedProduct {
  const FusedProductParams& params;
  int bands = 0, slices = 0;
  StripePlan stripes = {};

  NormedProduct(const FusedProductParams& p, const OpContext& context)
      : params(p), bands(choose_bands(p, context)) {
    if (bands > 0) return;
    slices = choose_slices(p, context);
    if (slices == 0) stripes = choose_stripes(p, context);
  }
  bool leaves_norm() const { return bands > 0 || slices > 0; }
  /// Measured in layers of an 8B: behind bands stripes gain by it.
  bool takes_norm(const NormedProduct& from) const {
    return leaves_norm() || (stripes.rows > 0 && !params.residual && from.bands > 0);
  }
  /// Of 16 columns each.
  int num_parts() const {
    const int64_t columns = params.linear.weight.shape[0];
    return slices > 0 ? num_norm_parts(columns) : static_cast<int>((columns + 15) / 16);
  }
  void run(const FusedProductParams& p, const OpContext& context, const SplitNorms& norms) const {
    if (bands > 0) return band_product(p, bands, context, norms);
    if (slices > 0) return slice_product(p, slices, context, norms);
    stripe_product(p, stripes, context, norms.x);
  }
};

/// The first two, where the second begins with a norm of what the first makes: half of the norm in
/// each. Returns 2, or 0: nothing was done.
size_t split_norm_products(std::span<const FusedProductParams> products, const OpContext& context) {
  if (products.size() < 2) return 0;
  const FusedProductParams &first = products[0], &second = products[1];
  const TensorView &y = first.linear.y, &x = second.linear.x, &g = second.norm_weight;
  if (!g || first.norm_weight || first.is_gated || !first.residual || x.data != y.data ||
      x.shape != y.shape || x.dtype != DType::kBFloat16 || g.dtype != x.dtype ||
      reinterpret_cast<uintptr_t>(g.data) % 16 != 0)
    return 0;
  const NormedProduct one(first, context);
  if (!one.leaves_norm()) return 0;
  const NormedProduct other(second, context);
  if (!other.takes_norm(one)) return 0;

  const int64_t rows = x.shape[0], whole_rows = (rows + 3) / 4 * 4;
  SplitNorm norm{.weight = g.data, .num_parts = one.num_parts(), .epsilon = second.epsilon};
  const size_t scaled_bytes = (x.bytes() + 15) / 16 * 16;
  const size_t squares_bytes = whole_rows * norm.num_parts * sizeof(float);
  if (context.workspace.bytes < scaled_bytes + squares_bytes) return 0;
  norm.scaled = context.workspace.data;
  norm.squares = reinterpret_cast<float*>(static_cast<uint8_t*>(norm.scaled) + scaled_bytes);
  one.run(first, context, {.y = norm});
  const TensorView none;
  TensorView scaled = x;
  scaled.data = norm.scaled;
  const FusedProductParams rest{
      .linear = {scaled, second.linear.weight, second.linear.bias, second.linear.y},
      .norm_weight = none,
      .epsilon = 0,
      .residual = second.residual,
      .is_gated = second.is_gated};
  other.run(rest, context, {.x = norm});
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
    if (band_or_stripe_product(p, context)) return 1;
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
