#include "kernels/gemm/gemm.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {
namespace {

constexpr int64_t kMaxNormDepth = 16384;  // the norm's weight lies in shared memory

bool takes_narrow(const LinearParams& p, const OpContext& context) {
  return is_narrow(p.x.shape[0], p.weight.shape[0], p.x.shape[1], context.num_multiprocessors);
}

}  // namespace

void few_rows_product(const FusedProductParams& p, const OpContext& context) {
  const int64_t rows = p.linear.weight.shape[0], depth = p.linear.x.shape[1];
  if (takes_narrow(p.linear, context)) {
    return narrow_product(
        p, plan_narrow(p.linear.y.shape[1], p.is_gated, context.num_multiprocessors), context);
  }
  skinny_product(p, plan_skinny(rows, depth, context.num_multiprocessors), context);
}

bool fused_product(const FusedProductParams& p, OpContext& context) {
  const TensorView &x = p.linear.x, &g = p.norm_weight;
  if (choose_product(p.linear, context) != Product::kSkinny) return false;
  // Beyond the narrow product's rows a norm in passing costs more than one apart.
  const bool can_norm = takes_narrow(p.linear, context) && x.dtype == DType::kBFloat16 &&
                        g.dtype == x.dtype && x.shape[1] <= kMaxNormDepth &&
                        reinterpret_cast<uintptr_t>(g.data) % 16 == 0;
  if (g && !can_norm) return false;
  few_rows_product(p, context);
  return true;
}

}  // namespace inflight::cuda
