#include "kernels/gemm/gate_stripe.cuh"
#include "kernels/gemm/stripe.cuh"

namespace inflight::cuda {

void stripe_product(const FusedProductParams& p, const StripePlan& plan, const OpContext& context,
                    const SplitNorm& norm) {
  const bool is_half = p.linear.x.dtype == DType::kFloat16;
  if (gate_stripe::suits(p, plan)) {
    return is_half ? gate_stripe::launch<__half>(p, plan, context, norm)
                   : gate_stripe::launch<__nv_bfloat16>(p, plan, context, norm);
  }
  if (is_half) return stripe::launch<__half>(p, plan, context, norm);
  stripe::launch<__nv_bfloat16>(p, plan, context, norm);
}

StripePlan choose_stripes(const FusedProductParams& p, const OpContext& context) {
  const auto& [x, weight, bias, y] = p.linear;
  if (context.compute_capability != 90 || x.dtype == DType::kFloat32 || weight.dtype != x.dtype ||
      y.dtype != x.dtype || !is_aligned(x) || !is_aligned(weight) || !is_aligned(y) ||
      (p.residual && !is_aligned(p.residual)))
    return {};
  return plan_stripe({.rows = x.shape[0],
                      .columns = weight.shape[0],
                      .depth = x.shape[1],
                      .is_gated = p.is_gated,
                      .has_library = context.cublaslt != nullptr,
                      .num_multiprocessors = context.num_multiprocessors});
}

}  // namespace inflight::cuda
