#include "kernels/gemm/select.h"

namespace inflight::cpu {

// Measured on Zen 4 (2 cores, AVX-512): ours reaches 180 to 220 GFLOP/s in float32 from 64 rows on,
// OpenBLAS 125 to 205, and ours is 1.5 to 2.5 times faster at 16 rows; so with AVX-512 or AVX2
// there is no crossover. Plain vectors are four lanes without fused products: there OpenBLAS, which
// has kernels for every processor, pays from some ten rows on.
constexpr int64_t kMinBlasRows = 12;

LinearKernel select_linear(const LinearShape& shape, Isa isa) {
  if (isa == Isa::kBaseline && shape.rows >= kMinBlasRows) return LinearKernel::kBlas;
  return LinearKernel::kDot;
}

}  // namespace inflight::cpu

namespace inflight::cuda {

Product select_product(const ProductQuery& query) {
  if (query.x != query.weight || query.x == DType::kFloat32 || !query.is_aligned)
    return Product::kExact;
  if (query.compute_capability == 90 && query.rows <= kMaxSkinnyRows) return Product::kSkinny;
  return query.has_library ? Product::kLibrary : Product::kTiled;
}

SkinnyPlan plan_skinny(int64_t columns, int64_t depth, int num_multiprocessors) {
  constexpr int64_t kTileColumns = 128, kStepDepth = 64;
  constexpr int64_t kMinSteps = 4;  // of a block: below, its start and end weigh more
  constexpr int kMaxSplit = 8;      // blocks that a cluster may have anywhere
  const int64_t tiles = (columns + kTileColumns - 1) / kTileColumns;
  const int64_t steps = (depth + kStepDepth - 1) / kStepDepth;
  // All blocks at once, two to a multiprocessor: equal shares of the bandwidth end together.
  int split = 1;
  while (split < kMaxSplit && tiles * split * 2 <= 2 * num_multiprocessors &&
         steps >= split * 2 * kMinSteps)
    split *= 2;
  return {split, 50 << 10};
}

}  // namespace inflight::cuda
