#include "kernels/gemm/products.h"
#include "kernels/gemm/wide.cuh"

namespace inflight::cuda {
namespace {

constexpr int kGroup = 16;  // tiles of rows: 2,048 rows of x and as many of the weights fit the L2

}  // namespace

bool linear_silu_mul(const LinearParams& p, OpContext& context) {
  const TensorView none;
  const FusedProductParams product{
      .linear = p, .norm_weight = none, .epsilon = 0, .residual = none, .is_gated = true};
  if (band_or_stripe_product(product, context)) return true;
  if (choose_product(p, context) == Product::kSkinny) {
    few_rows_product(product, context);
    return true;
  }
  const DType dtype = p.x.dtype;
  if (context.compute_capability != 90 || dtype == DType::kFloat32 || p.weight.dtype != dtype ||
      p.y.dtype != dtype || p.bias || !is_aligned(p.x) || !is_aligned(p.weight) ||
      !is_aligned(p.y) || !is_wide(p.x.shape[0], p.y.shape[1], context.num_multiprocessors))
    return medium_product(p, none, true, context);
  dtype == DType::kFloat16 ? wide::launch_gated<__half>(p, kGroup, context)
                           : wide::launch_gated<__nv_bfloat16>(p, kGroup, context);
  return true;
}

}  // namespace inflight::cuda
