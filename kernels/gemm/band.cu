#include "kernels/gemm/band.cuh"

namespace inflight::cuda {

void band_product(const FusedProductParams& p, int rows, const OpContext& context,
                  const SplitNorms& norms) {
  if (p.linear.x.dtype == DType::kFloat16) return band::launch<__half>(p, rows, context, norms);
  band::launch<__nv_bfloat16>(p, rows, context, norms);
}

int choose_bands(const FusedProductParams& p, const OpContext& context) {
  const auto& [x, weight, bias, y] = p.linear;
  if (context.compute_capability != 90 || x.dtype == DType::kFloat32 || weight.dtype != x.dtype ||
      y.dtype != x.dtype || !is_aligned(x) || !is_aligned(weight) || !is_aligned(y) ||
      (p.residual && !is_aligned(p.residual)))
    return 0;
  BandQuery query{.rows = x.shape[0],
                  .columns = weight.shape[0],
                  .depth = x.shape[1],
                  .is_gated = p.is_gated,
                  .num_clusters = 0};
  if (!suits_bands(query)) return 0;
  query.num_clusters = x.dtype == DType::kFloat16 ? band::num_clusters<__half>()
                                                  : band::num_clusters<__nv_bfloat16>();
  return plan_bands(query);
}

bool band_or_stripe_product(const FusedProductParams& p, const OpContext& context) {
  if (const int rows = choose_bands(p, context)) {
    band_product(p, rows, context);
    return true;
  }
  const StripePlan plan = choose_stripes(p, context);
  if (plan.rows == 0) return false;
  stripe_product(p, plan, context);
  return true;
}

}  // namespace inflight::cuda
