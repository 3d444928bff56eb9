#include "kernels/gemm/gemm.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {
namespace {

bool is_aligned(const LinearParams& p) {
  const auto begins =
      reinterpret_cast<uintptr_t>(p.x.data) | reinterpret_cast<uintptr_t>(p.weight.data);
  return begins % 16 == 0 && p.x.shape[1] * size_of(p.x.dtype) % 16 == 0;
}

ProductQuery query_of(const LinearParams& p, const OpContext& context) {
  return {.rows = p.x.shape[0],
          .columns = p.weight.shape[0],
          .depth = p.x.shape[1],
          .x = p.x.dtype,
          .weight = p.weight.dtype,
          .is_aligned = is_aligned(p),
          .compute_capability = context.compute_capability,
          .has_library = context.cublaslt != nullptr};
}

}  // namespace

size_t linear_workspace_bytes(const LinearParams& p) {
  const bool is_library = p.x.dtype == p.weight.dtype && p.x.dtype != DType::kFloat32;
  return is_library ? kLibraryWorkspaceBytes : 0;
}

void linear(const LinearParams& p, OpContext& context) {
  const int64_t columns = p.weight.shape[0], depth = p.x.shape[1];
  switch (select_product(query_of(p, context))) {
    case Product::kExact:
      return exact_product(p, context);
    case Product::kSkinny:
      return skinny_product(p, plan_skinny(columns, depth, context.num_multiprocessors), context);
    case Product::kLibrary:
      if (library_product(p, TensorView{}, context)) return;
      [[fallthrough]];
    case Product::kTiled:
      return tiled_product(p, context);
  }
}

bool linear_add(const LinearParams& p, const TensorView& residual, OpContext& context) {
  return select_product(query_of(p, context)) == Product::kLibrary &&
         library_product(p, residual, context);
}

}  // namespace inflight::cuda
