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

constexpr int64_t kHeadColumns = 65536;

Product select_product(const ProductQuery& query) {
  if (query.x != query.weight || query.x == DType::kFloat32 || !query.is_aligned)
    return Product::kExact;
  // From some 32 rows on a wide and deep product waits for x, which each of its tiles reads; and a
  // language model's head: 147 us of 64 rows of a 1B's where cuBLASLt takes 135 to 139.
  const bool is_big =
      (query.columns >= 4096 && query.depth >= 4096) || query.columns >= kHeadColumns;
  const int64_t most = is_big && query.has_library ? kMaxSkinnyRows / 2 : kMaxSkinnyRows;
  if (query.compute_capability == 90 && query.rows <= most) return Product::kSkinny;
  return query.has_library ? Product::kLibrary : Product::kTiled;
}

bool is_wide(int64_t rows, int64_t columns, int num_multiprocessors) {
  constexpr int64_t kTile = 128;
  if (rows <= 256) return false;  // plan_medium's
  const int64_t tiles = (rows + kTile - 1) / kTile * ((columns + kTile - 1) / kTile);
  const int64_t rounds = (tiles + num_multiprocessors - 1) / num_multiprocessors;
  // Measured on an H200 that is kept busy: 1 to 14 % faster above it, up to 9 % slower below.
  return rows * columns * 1000 >= rounds * num_multiprocessors * kTile * kTile * 945;
}

StripePlan plan_stripe(const StripeQuery& query) {
  constexpr int64_t kLeastRows = 64, kMostRows = 128;  // narrower ones wait for x
  if (query.rows > kMaxSkinnyRows) return {};
  // Measured on an H200: ahead of all else in layers of an 8B of 16 and 32 rows; fewer are the work
  // of 16, with rows of zeros. Above, x weighs more, and cuBLASLt is ahead but of a large gate,
  // which it needs a second kernel for. In layers of a 1B, at a depth of 2,048, smaller rings that
  // begin beside the kernel before are ahead.
  if (query.depth < 4096) return {};
  const bool are_many = query.columns > query.num_multiprocessors * kMostRows;
  const bool is_large_gate = query.is_gated && are_many;
  if (query.rows > kMaxSkinnyRows / 2 && query.has_library && !is_large_gate) return {};
  for (int split : {1, 2}) {
    // As many stripes as there is room for, which end together; of weights too many for one to a
    // multiprocessor two, of which one ends its tile while the other reads.
    const int per_multiprocessor = are_many && split == 1 ? 2 : 1;
    const int64_t places = query.num_multiprocessors * per_multiprocessor / split;
    const int64_t rounds = (query.columns + places * kMostRows - 1) / (places * kMostRows);
    const int64_t rows = (query.columns + places * rounds - 1) / (places * rounds);
    const int64_t unit = split > 1 || query.is_gated ? 16 * split : 8;
    const int64_t whole = (rows + unit - 1) / unit * unit;
    if (whole >= kLeastRows)
      return {.rows = static_cast<int>(whole),
              .split = split,
              .per_multiprocessor = per_multiprocessor};
  }
  return {};
}

int plan_medium(const MediumQuery& query) {
  constexpr int64_t kTileRows = 128, kStepDepth = 64;
  const int64_t rows = query.rows;
  if (rows <= kMaxSkinnyRows || rows > kMaxMediumRows) return -1;
  const bool is_few = rows <= kTileRows;
  // Measured of an 8B gate and up, and of the library with an activation after it: 85 us for 75 at
  // 129 rows, 87 for 82 at 192.
  if (!is_few && rows <= kTileRows * 3 / 2) return -1;
  // There is no kernel of two rows of tiles without a gate.
  if (!query.is_gated && !is_few) return -1;
  // Clusters per place for one: what is missing are multiprocessors that stand still in the last
  // round, and rows that are not there. Below, the library has tiles that fit better.
  double best_fill = rows <= 2 * kTileRows ? 0.9 : 0.945;
  int best = -1;
  for (const MediumPlan& plan : kMediumPlans) {
    if (plan.is_gated != query.is_gated || plan.row_blocks != (is_few ? 1 : 2)) continue;
    const int64_t width =
        (plan.is_gated ? plan.columns / 2 : plan.columns) * int64_t{plan.column_blocks};
    const int64_t height = kTileRows * plan.row_blocks, down = (rows + height - 1) / height;
    const int64_t clusters = (query.columns + width - 1) / width * down;
    const int64_t places =
        query.num_multiprocessors / (plan.row_blocks * plan.column_blocks * plan.split);
    const int64_t rounds = (clusters + places - 1) / places;
    // A cluster that shares the depth has one tile, and a few steps of it for each of its blocks.
    if (plan.split > 1 && (rounds > 1 || query.depth < 4 * kStepDepth * plan.split)) continue;
    double fill = static_cast<double>(clusters) / static_cast<double>(rounds * places);
    if (down > 1) fill *= static_cast<double>(rows) / static_cast<double>(down * height);
    if (fill > best_fill + 0.001) {
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

int plan_slices(int64_t columns, int64_t depth, int num_multiprocessors) {
  constexpr int64_t kLeastDepth = 256, kMostRounds = 2;  // of a block to a multiprocessor
  if (columns >= 4096 && depth >= 4096) return 0;        // as an 8B's: stripes are ahead
  const int64_t slices = (columns + kSliceRows - 1) / kSliceRows;
  // Measured on an H200 in layers of a 1B: of qkv 96 blocks are 1 us ahead of 192. Where too many
  // multiprocessors would stand still the skinny product has more blocks.
  double best_fill = 0.7;
  int best = 0;
  for (const int split : {1, 2, 4}) {
    const int64_t blocks = slices * split;
    const int64_t rounds = (blocks + num_multiprocessors - 1) / num_multiprocessors;
    const double fill =
        static_cast<double>(blocks) / static_cast<double>(rounds * num_multiprocessors);
    if (rounds > kMostRounds || depth < split * kLeastDepth || fill <= best_fill + 0.001) continue;
    best_fill = fill;
    best = split;
  }
  return best;
}

bool suits_bands(const BandQuery& query) {
  // Measured on an H200 in layers of an 8B, where stripes of so few weight rows wait for x; of up
  // to 32 rows of that they do not, and whole steps are ahead with them.
  constexpr int64_t kFewRows = kMaxSkinnyRows / 2;
  return !query.is_gated && query.rows > kFewRows && query.rows <= kMaxSkinnyRows &&
         query.depth >= 4096;
}

int plan_bands(const BandQuery& query) {
  constexpr int64_t kUnit = 16, kLeast = 128, kMost = 256;
  if (!suits_bands(query) || query.num_clusters == 0) return 0;
  const int64_t rows = (query.columns + query.num_clusters - 1) / query.num_clusters;
  const int64_t whole = (rows + kUnit - 1) / kUnit * kUnit;
  return whole > kLeast && whole <= kMost ? static_cast<int>(whole) : 0;
}

int num_norm_parts(int64_t columns) {
  constexpr int kWarps = 4;
  return static_cast<int>((columns + kSliceRows - 1) / kSliceRows) * kWarps;
}

bool is_narrow(int64_t rows, int64_t columns, int64_t depth, int num_multiprocessors) {
  // Measured on an H200: in a 1B's layers. Of more rows x takes too long to come from one linear to
  // the next, and large weights by stripes are as fast.
  constexpr int64_t kMostRows = 4;
  const bool is_large = columns >= 4096 && depth >= 4096;
  return rows <= kMostRows && depth % 64 == 0 && !is_large &&
         !has_many_columns(columns, num_multiprocessors);
}

NarrowPlan plan_narrow(int num_multiprocessors) {
  return {num_multiprocessors, 227 << 10, 16, 64 << 10};
}

int narrow_groups(int64_t columns, bool is_gated, int num_blocks) {
  // The widest tiles (fewer reads of x) among those that give the busiest block the least.
  int best = 4;
  int64_t least = INT64_MAX;
  for (const int groups : {4, 3, 2}) {
    if (is_gated && groups == 3) continue;
    const int64_t width = groups * 8 / (is_gated ? 2 : 1);
    const int64_t tiles = (columns + width - 1) / width;
    const int64_t work = (tiles + num_blocks - 1) / num_blocks * groups;
    if (least == INT64_MAX || work * 20 < least * 19) {
      best = groups;
      least = work;
    }
  }
  return best;
}

}  // namespace inflight::cuda
