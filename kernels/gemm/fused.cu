#include "kernels/gemm/gemm.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {

void few_rows_product(const FusedProductParams& p, const OpContext& context) {
  const int64_t rows = p.linear.weight.shape[0], depth = p.linear.x.shape[1];
  skinny_product(p, plan_skinny(rows, depth, context.num_multiprocessors), context);
}

bool fused_product(const FusedProductParams& p, OpContext& context) {
  if (stripe_product(p, context)) return true;
  if (choose_product(p.linear, context) != Product::kSkinny) return false;
  few_rows_product(p, context);
  return true;
}

}  // namespace inflight::cuda
