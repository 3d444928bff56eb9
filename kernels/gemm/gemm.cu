#include "kernels/gemm/gemm.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {
namespace {

FusedProductParams plain(const LinearParams& p, const TensorView& none,
                         const TensorView& residual) {
  return {.linear = p, .norm_weight = none, .epsilon = 0, .residual = residual, .is_gated = false};
}

}  // namespace

bool is_aligned(const TensorView& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&
         matrix.shape[1] * size_of(matrix.dtype) % 16 == 0;
}

size_t linear_workspace_bytes(const LinearParams& p) {
  const bool is_library = p.x.dtype == p.weight.dtype && p.x.dtype != DType::kFloat32;
  return is_library ? kLibraryWorkspaceBytes : 0;
}

Product choose_product(const LinearParams& p, const OpContext& context) {
  return select_product({.rows = p.x.shape[0],
                         .columns = p.weight.shape[0],
                         .depth = p.x.shape[1],
                         .x = p.x.dtype,
                         .weight = p.weight.dtype,
                         .is_aligned = is_aligned(p.x) && is_aligned(p.weight),
                         .compute_capability = context.compute_capability,
                         .has_library = context.cublaslt != nullptr});
}

void linear(const LinearParams& p, OpContext& context) {
  const TensorView none;
  const FusedProductParams product = plain(p, none, none);
  if (band_or_stripe_product(product, context)) return;
  switch (choose_product(p, context)) {
    case Product::kExact:
      return exact_product(p, context);
    case Product::kSkinny:
      return few_rows_product(product, context);
    case Product::kLibrary:
      if (medium_product(p, none, false, context) || library_product(p, none, context)) return;
      [[fallthrough]];
    case Product::kTiled:
      return tiled_product(p, context);
  }
}

bool linear_add(const LinearParams& p, const TensorView& residual, OpContext& context) {
  const TensorView none;
  const FusedProductParams product = plain(p, none, residual);
  if (band_or_stripe_product(product, context)) return true;
  switch (choose_product(p, context)) {
    case Product::kSkinny:
      few_rows_product(product, context);
      return true;
    case Product::kLibrary:
      return medium_product(p, residual, false, context) || library_product(p, residual, context);
    default:
      return false;
  }
}

}  // namespace inflight::cuda
