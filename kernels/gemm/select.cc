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
  // From some 32 rows on a wide and deep product waits for x, which each of its tiles reads.
  const bool is_big = query.columns >= 4096 && query.depth >= 4096;
  const int64_t most = is_big && query.has_library ? kMaxSkinnyRows / 2 : kMaxSkinnyRows;
  if (query.compute_capability == 90 && query.rows <= most) return Product::kSkinny;
  return query.has_library ? Product::kLibrary : Product::kTiled;
}

bool is_wide(int64_t rows, int64_t columns, int64_t depth, int num_multiprocessors) {
  constexpr int64_t kTile = 128;
  if (rows <= kMaxSkinnyRows) return false;
  // Measured on an H200: 5 to 11 % faster at a depth of 2,048 (one size 2 % slower); at 4,096,
  // where the activation is a smaller share, 0 to 4 % slower up to 4,096 rows and 3 % faster at
  // 8,000.
  if (depth > 2048 && rows <= 4096) return false;
  const int64_t tiles = (rows + kTile - 1) / kTile * ((columns + kTile - 1) / kTile);
  const int64_t rounds = (tiles + num_multiprocessors - 1) / num_multiprocessors;
  // Up to 13 % slower at 0.85.
  return rows * columns * 100 >= rounds * num_multiprocessors * kTile * kTile * 95;
}

StripePlan plan_stripe(const StripeQuery& query) {
  constexpr int64_t kMostRows = 256;   // the copy engine's
  constexpr int64_t kMinRows = 48;     // narrower ones wait for x
  constexpr int64_t kUnitDepth = 256;  // by which blocks share the depth
  if (query.rows <= 8 || query.rows > kMaxSkinnyRows) return {};
  // Above 32 rows x weighs more, and cuBLASLt is ahead where weights are few.
  if (query.rows > 32 && query.has_library && !query.is_gated && query.depth <= 4096) return {};
  StripePlan plan;
  for (int split : {1, 2}) {
    if (split > 1 && query.depth <= kUnitDepth) break;
    // As many stripes as there is room for, which end together.
    const int64_t places = query.num_multiprocessors / split;
    const int64_t rounds = (query.columns + places * kMostRows - 1) / (places * kMostRows);
    const int64_t unit = split > 1 ? 16 * split : query.is_gated ? 16 : 8;
    const int64_t rows = (query.columns + places * rounds - 1) / (places * rounds);
    plan = {.rows = static_cast<int>((rows + unit - 1) / unit * unit), .split = split};
    if (plan.rows >= kMinRows) break;
  }
  return plan;
}

int plan_medium(const MediumQuery& query) {
  if (query.rows <= kMaxSkinnyRows || query.rows > kMaxMediumRows) return -1;
  const int row_blocks = query.rows <= 128 ? 1 : 2;
  // Thread blocks per place for one: what is missing are multiprocessors that stand still in the
  // last round. Below the threshold the library has tiles that fit better.
  double best_fill = 0.9;
  int best = -1;
  for (const MediumPlan& plan : kMediumPlans) {
    if (plan.is_gated != query.is_gated || plan.row_blocks != row_blocks) continue;
    const int64_t width =
        (plan.is_gated ? plan.columns / 2 : plan.columns) * int64_t{plan.column_blocks};
    const int64_t cluster = int64_t{plan.row_blocks} * plan.column_blocks * plan.split;
    const int64_t blocks = (query.columns + width - 1) / width * cluster;
    const int64_t places = query.num_multiprocessors / cluster * cluster;
    const int64_t rounds = (blocks + places - 1) / places;
    const double fill = static_cast<double>(blocks) / static_cast<double>(rounds * places);
    if (fill > best_fill + 0.01) {
      best_fill = fill;
      best = static_cast<int>(&plan - kMediumPlans);
    }
  }
  return best;
}

/// A language model's head: measured on an H200, the skinny product is 3 to 4 % ahead there.
static bool has_many_columns(int64_t columns, int num_multiprocessors) {
  return columns >= int64_t{12} * 64 * num_multiprocessors;
}

SkinnyPlan plan_skinny(int64_t columns, int64_t depth, int num_multiprocessors) {
  constexpr int64_t kStepDepth = 64, kMinSteps = 4;  // of a block: below, its ends weigh more
  constexpr int kMaxSplit = 8;                       // blocks that a cluster may have anywhere
  const int64_t tiles = (columns + 63) / 64;
  const int64_t steps = (depth + kStepDepth - 1) / kStepDepth;
  // About as many blocks as multiprocessors, in one wave: then equal shares of the bandwidth end
  // together, and the next kernel's blocks find room to fill their rings meanwhile.
  int split = 1;
  while (split < kMaxSplit && tiles * split * 10 < 9 * num_multiprocessors &&
         steps >= split * 2 * kMinSteps)
    split *= 2;
  // Where blocks follow each other, three to a multiprocessor leave fewer gaps than two.
  const int shared_bytes = has_many_columns(columns, num_multiprocessors) ? 75 << 10 : 112 << 10;
  return {split, shared_bytes};
}

}  // namespace inflight::cuda
