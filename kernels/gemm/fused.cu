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

}  // namespace

void few_rows_product(const FusedProductParams& p, const OpContext& context) {
  const int64_t rows = p.linear.weight.shape[0], depth = p.linear.x.shape[1];
  skinny_product(p, plan_skinny(rows, depth, context.num_multiprocessors), context);
}

size_t fused_products(std::span<const FusedProductParams> products, OpContext& context) {
  const FusedProductParams& p = products[0];
  if (!context.grids_may_wait || !takes_narrow(p, context)) {
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
