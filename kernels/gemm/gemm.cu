#include "kernels/gemm/gemm.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {
namespace {

bool is_aligned(const LinearParams& p) {
  const auto begins =
      reinterpret_cast<uintptr_t>(p.x.data) | reinterpret_cast<uintptr_t>(p.weight.data);
  return begins % 16 == 0 && p.x.shape[1] * size_of(p.x.dtype) % 16 == 0;
}

}  // namespace

size_t linear_workspace_bytes(const LinearParams& p) {
  const bool is_library = p.x.dtype == p.weight.dtype && p.x.dtype != DType::kFloat32;
  return is_library ? kLibraryWorkspaceBytes : 0;
}

void linear(const LinearParams& p, OpContext& context) {
  const int64_t columns = p.weight.shape[0], depth = p.x.shape[1];
  const ProductQuery query{.rows = p.x.shape[0],
                           .columns = columns,
                           .depth = depth,
                           .x = p.x.dtype,
                           .weight = p.weight.dtype,
                           .is_aligned = is_aligned(p),
                           .compute_capability = context.compute_capability,
                           .has_library = context.cublaslt != nullptr};
  switch (select_product(query)) {
    case Product::kExact:
      return exact_product(p, context);
    case Product::kSkinny:
      return skinny_product(p, plan_skinny(columns, depth, context.num_multiprocessors), context);
    case Product::kLibrary:
      if (library_product(p, context)) return;
      [[fallthrough]];
    case Product::kTiled:
      return tiled_product(p, context);
  }
}

}  // namespace inflight::cuda
