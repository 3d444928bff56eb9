// Which product serves a linear: pure choices, testable without running any.
#pragma once

#include <cstdint>

#include "kernels/core/cpu/isa.h"
#include "kernels/core/dtype.h"

namespace inflight::cpu {

enum class LinearKernel : uint8_t {
  kDot,   // ours: weights as they are; a row's bits do not depend on the other rows
  kBlas,  // OpenBLAS on float32, 16-bit weights converted slab by slab; its bits may depend on them
};

struct LinearShape {
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

LinearKernel select_linear(const LinearShape& shape, Isa isa);

}  // namespace inflight::cpu

namespace inflight::cuda {

enum class Product : uint8_t {
  kExact,    // float32 fused multiply-adds: any dtypes; a row's bits do not depend on the others
  kTiled,    // mma.sync, from sm_80 on
  kSkinny,   // few rows on Hopper: weights streamed through wgmma
  kLibrary,  // cuBLASLt
};

struct ProductQuery {
  int64_t rows;
  int64_t columns;
  int64_t depth;
  DType x;
  DType weight;
  bool is_aligned;  // x, weight and their rows begin at multiples of 16 bytes
  int compute_capability;
  bool has_library;
};

inline constexpr int64_t kMaxSkinnyRows = 64, kMaxMediumRows = 1536;

Product select_product(const ProductQuery& query);

/// Whether a gated linear goes to the kernel for many rows rather than to the library and an
/// activation after it: its tiles of 128 rows and columns must fill the rounds of the grid.
bool is_wide(int64_t rows, int64_t columns, int num_multiprocessors);

/// How the product of stripes divides its work. It does not depend on the rows: neither do
/// their bits.
struct StripePlan {
  int rows = 0;   // of weights, to a thread block: at most 128; 0: another product is faster
  int split = 1;  // blocks that share a stripe's depth, each at least 256 of it; of stripes of
                  // multiples of 16 * split rows
  int per_multiprocessor = 1;  // blocks: 1 or 2
};

struct StripeQuery {
  int64_t rows;
  int64_t columns;  // rows of the weights
  int64_t depth;
  bool is_gated;
  bool has_library;
  int num_multiprocessors;
};

StripePlan plan_stripe(const StripeQuery& query);

/// How the product of a medium number of rows divides its work: tiles of 128 rows of x and so many
/// of weights, and what a cluster of thread blocks shares.
struct MediumPlan {
  int columns;        // rows of weights in a tile; half of them the gate's, half up's, if gated
  int row_blocks;     // blocks with the same weights: 1 up to 128 rows, 2 above
  int column_blocks;  // blocks with the same x
  int split;          // blocks that share a tile's depth
  bool is_gated;
};

/// Those that there are kernels for, the better one first where two fill the GPU as well.
inline constexpr MediumPlan kMediumPlans[] = {
    {256, 1, 1, 1, true}, {224, 1, 1, 1, true}, {128, 1, 2, 1, true}, {256, 2, 1, 1, true},
    {224, 2, 1, 1, true}, {64, 1, 1, 2, false}, {96, 1, 1, 2, false},
};

struct MediumQuery {
  int64_t rows;
  int64_t columns;  // of y
  int64_t depth;
  bool is_gated;
  int num_multiprocessors;
};

/// Of kMediumPlans, or -1: the library serves better.
int plan_medium(const MediumQuery& query);

/// How the skinny product divides its work. It does not depend on the rows: neither do their bits.
struct SkinnyPlan {
  int split;         // blocks that share a tile's depth: 1, 2, 4 or 8
  int shared_bytes;  // of a block
};

SkinnyPlan plan_skinny(int64_t columns, int64_t depth, int num_multiprocessors);

inline constexpr int kSliceRows = 64;  // of weights

/// Thread blocks that share a slice's depth where the product of slices is ahead of the skinny one:
/// 1, 2 or 4; 0 where it is not. `columns` are the weight's rows. Does not depend on x's rows.
int plan_slices(int64_t columns, int64_t depth, int num_multiprocessors);
/// SplitNorm's, of so many columns: one to a warp's 16.
int num_norm_parts(int64_t columns);

inline constexpr int kBandSplit = 4;  // thread blocks of a cluster, which share a band's depth

struct BandQuery {
  int64_t rows;
  int64_t columns;  // rows of the weights
  int64_t depth;
  bool is_gated = false;
  int num_clusters = 0;  // that run at once with a multiprocessor to each block
};

/// Whether bands are ahead if there are clusters for them, of whose number this does not ask.
bool suits_bands(const BandQuery& query);
/// Weight rows of a band where bands are ahead: a multiple of 16 of 129 to 256; 0 where they are
/// not.
int plan_bands(const BandQuery& query);

inline constexpr int64_t kMaxNarrowRows = 8;
inline constexpr int kMaxNarrowLinks = 4;

/// A norm's x is kept in shared memory.
inline constexpr int64_t kMaxNarrowNormDepth = 8192;

/// Whether the narrow product is ahead of the others. `columns` are the weight's rows.
bool is_narrow(int64_t rows, int64_t columns, int64_t depth, int num_multiprocessors);

/// How the narrow product divides its work; independent of the rows, like their bits.
struct NarrowPlan {
  int max_blocks;    // a multiprocessor holds one
  int shared_bytes;  // of a block, at most
  int window;        // copies of 4 KB on their way
  int x_bytes;       // of a block's shared memory for x, if that is enough for all of x
};

NarrowPlan plan_narrow(int num_multiprocessors);

/// Groups of 8 weight rows to a tile: 2, 3 or 4, not 3 if gated. Does not depend on the rows.
int narrow_groups(int64_t columns, bool is_gated, int num_blocks);

}  // namespace inflight::cuda
