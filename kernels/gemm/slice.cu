#include "kernels/gemm/slice.cuh"

namespace inflight::cuda {

void slice_product(const FusedProductParams& p, int split, const OpContext& context,
                   const SplitNorms& norms) {
  if (p.linear.x.dtype == DType::kFloat16) return slice::launch<__half>(p, split, context, norms);
  slice::launch<__nv_bfloat16>(p, split, context, norms);
}

int choose_slices(const FusedProductParams& p, const OpContext& context) {
  const auto& [x, weight, bias, y] = p.linear;
  if (choose_product(p.linear, context) != Product::kSkinny || y.dtype != x.dtype ||
      !is_aligned(y) || (p.residual && !is_aligned(p.residual)))
    return 0;
  return plan_slices(weight.shape[0], x.shape[1], context.num_multiprocessors);
}

}  // namespace inflight::cuda
