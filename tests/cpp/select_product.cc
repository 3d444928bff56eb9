// Which product serves a linear on a GPU, and how the one for few rows divides its work.
#include <tuple>
#include <utility>

#include "kernels/gemm/select.h"
#include "tests/cpp/testing.h"

namespace inflight::cuda {
namespace {

ProductQuery bfloat16(int64_t rows) {
  return {.rows = rows,
          .columns = 4096,
          .depth = 4096,
          .x = DType::kBFloat16,
          .weight = DType::kBFloat16,
          .is_aligned = true,
          .compute_capability = 90,
          .has_library = true};
}

void check_products() {
  EXPECT(select_product(bfloat16(1)) == Product::kSkinny);
  EXPECT(select_product(bfloat16(32)) == Product::kSkinny);
  EXPECT(select_product(bfloat16(33)) == Product::kLibrary);

  ProductQuery query = bfloat16(4096);
  query.has_library = false;
  EXPECT(select_product(query) == Product::kTiled);
  query.rows = 64;
  EXPECT(select_product(query) == Product::kSkinny);
  query = bfloat16(64);
  query.depth = 2048;
  EXPECT(select_product(query) == Product::kSkinny);
  query.columns = 128256;
  EXPECT(select_product(query) == Product::kLibrary);
  query.rows = 32;
  EXPECT(select_product(query) == Product::kSkinny);
  query.rows = kMaxSkinnyRows + 1;
  EXPECT(select_product(query) == Product::kLibrary);
  query = bfloat16(1);
  query.compute_capability = 80;
  EXPECT(select_product(query) == Product::kLibrary);
  query.has_library = false;
  EXPECT(select_product(query) == Product::kTiled);

  for (int64_t rows : {1, 64, 4096}) {
    query = bfloat16(rows);
    query.x = query.weight = DType::kFloat32;
    EXPECT(select_product(query) == Product::kExact);
    query = bfloat16(rows);
    query.weight = DType::kFloat16;
    EXPECT(select_product(query) == Product::kExact);
    query = bfloat16(rows);
    query.is_aligned = false;
    EXPECT(select_product(query) == Product::kExact);
  }
}

void check_plans() {
  const auto plan = [](int64_t columns, int64_t depth) { return plan_skinny(columns, depth, 132); };
  EXPECT_EQ(plan(4096, 4096).split, 2);
  EXPECT_EQ(plan(2048, 2048).split, 4);
  EXPECT_EQ(plan(28672, 4096).split, 1);
  EXPECT_EQ(plan(128256, 4096).split, 1);
  EXPECT(plan(128256, 4096).shared_bytes * 3 <= 227 << 10);
  EXPECT_EQ(plan(4096, 4096).shared_bytes, plan(28672, 4096).shared_bytes);
  EXPECT_EQ(plan(128, 64).split, 1);  // not less than a few steps to a block
  EXPECT_EQ(plan(128, 8192).split, 8);
}

void check_stripes() {
  const auto plan = [](int64_t rows, int64_t columns, int64_t depth, bool is_gated = false,
                       bool has_library = true) {
    const StripePlan p = plan_stripe({.rows = rows,
                                      .columns = columns,
                                      .depth = depth,
                                      .is_gated = is_gated,
                                      .has_library = has_library,
                                      .num_multiprocessors = 132});
    return std::tuple(p.rows, p.split, p.per_multiprocessor);
  };
  const auto none = std::tuple(0, 1, 1);
  EXPECT(plan(65, 4096, 4096) == none);
  for (int64_t rows : {1, 8, 9, 16, 32}) {
    EXPECT(plan(rows, 6144, 4096) == std::tuple(96, 2, 1));          // 64 pairs
    EXPECT(plan(rows, 4096, 4096) == std::tuple(64, 2, 1));          // 64 pairs
    EXPECT(plan(rows, 28672, 4096, true) == std::tuple(112, 1, 2));  // 256 stripes
    EXPECT(plan(rows, 28672, 4096) == std::tuple(112, 1, 2));
    EXPECT(plan(rows, 4096, 14336) == std::tuple(64, 2, 1));
    EXPECT(plan(rows, 2048, 8192) == none);  // too narrow
    EXPECT(plan(rows, 16384, 2048, true) == none);
  }
  EXPECT(plan(33, 4096, 14336) == none);
  EXPECT(plan(33, 4096, 4096, false, false) == std::tuple(64, 2, 1));
  EXPECT(plan(33, 28672, 4096) == none);
  EXPECT(plan(33, 28672, 4096, true) == std::tuple(112, 1, 2));  // the library lacks a gate
  EXPECT(plan(64, 28672, 4096, true) == std::tuple(112, 1, 2));
  EXPECT(plan(64, 16384, 4096, true) == none);
  EXPECT(plan(64, 28672, 4096, true, false) == std::tuple(112, 1, 2));
  EXPECT(plan(16, 57344, 8192, true) == std::tuple(112, 1, 2));  // in two rounds
  EXPECT(plan(16, 10240, 8192) == std::tuple(80, 1, 1));
}

void check_slices() {
  const auto plan = [](int64_t columns, int64_t depth) { return plan_slices(columns, depth, 132); };
  EXPECT_EQ(plan(3072, 2048), 2);  // a 1B's; 48 pairs, no worse than 48 fours
  EXPECT_EQ(plan(2048, 2048), 4);
  EXPECT_EQ(plan(2048, 8192), 4);
  EXPECT_EQ(plan(16384, 2048), 1);
  for (const auto& [columns, depth] :
       {std::pair(6144, 4096), {4096, 4096}, {28672, 4096}, {4096, 14336}})
    EXPECT_EQ(plan(columns, depth), 0);  // an 8B's go by stripes
  EXPECT_EQ(plan(5120, 3072), 0);        // 80 or 160 of 132
  EXPECT_EQ(plan(128256, 2048), 0);      // many rounds
  EXPECT_EQ(plan(2048, 512), 0);         // not deep enough for four
  EXPECT_EQ(num_norm_parts(2048), 128);
  EXPECT_EQ(num_norm_parts(2056), 132);
}

void check_bands() {
  const auto plan = [](int64_t rows, int64_t columns, int64_t depth, bool is_gated = false,
                       int num_clusters = 30) {
    return plan_bands({.rows = rows,
                       .columns = columns,
                       .depth = depth,
                       .is_gated = is_gated,
                       .num_clusters = num_clusters});
  };
  for (const int64_t rows : {33, 48, 64}) {
    EXPECT_EQ(plan(rows, 6144, 4096), 208);  // an 8B's: 30 clusters
    EXPECT_EQ(plan(rows, 4096, 4096), 144);  // 29
    EXPECT_EQ(plan(rows, 4096, 14336), 144);
  }
  EXPECT_EQ(plan(64, 6144, 4096, false, 28), 224);  // where fewer clusters fit
  EXPECT_EQ(plan(64, 6144, 4096, false, 0), 0);
  EXPECT(suits_bands({.rows = 64, .columns = 4096, .depth = 4096}));  // whatever clusters there are
  EXPECT(!suits_bands({.rows = 65, .columns = 4096, .depth = 4096}));
  EXPECT_EQ(plan(32, 4096, 4096), 0);
  EXPECT_EQ(plan(65, 4096, 4096), 0);
  EXPECT_EQ(plan(64, 28672, 4096, true), 0);
  EXPECT_EQ(plan(64, 28672, 4096), 0);  // too many for one round
  EXPECT_EQ(plan(64, 3584, 4096), 0);   // x would weigh more
  EXPECT_EQ(plan(64, 4096, 2048), 0);
}

void check_wide() {
  EXPECT(!is_wide(256, 8192, 132));  // few rows
  EXPECT(is_wide(2048, 8192, 132));
  EXPECT(!is_wide(384, 8192, 132));  // 192 tiles in 2 rounds of 132
  EXPECT(is_wide(512, 8192, 132));   // 256 in 2
  EXPECT(is_wide(1000, 14336, 132));
  EXPECT(!is_wide(1280, 14336, 132));  // 1,120 in 9
  EXPECT(is_wide(2048, 14336, 132));
  EXPECT(is_wide(8000, 14336, 132));
}

void check_medium() {
  const auto gated = [](int64_t rows, int64_t columns) {
    const int plan = plan_medium({rows, columns, 4096, true, 132});
    if (plan < 0) return 0;
    EXPECT(kMediumPlans[plan].is_gated);
    EXPECT_EQ(kMediumPlans[plan].row_blocks, rows <= 128 ? 1 : 2);
    return kMediumPlans[plan].columns;
  };
  for (int64_t rows : {65, 128, 193, 256}) EXPECT_EQ(gated(rows, 14336), 224);  // 128 tiles
  for (int64_t rows : {129, 192}) EXPECT_EQ(gated(rows, 14336), 0);
  EXPECT_EQ(gated(128, 8192), 128);  // 128 tiles of 64 and 64
  EXPECT_EQ(gated(256, 8192), 256);  // 64 of 128 and 128, twice
  EXPECT_EQ(gated(64, 14336), 0);
  EXPECT_EQ(gated(257, 14336), 0);    // half of the rows are not there
  EXPECT_EQ(gated(512, 14336), 224);  // 2 times 128 pairs in 4 rounds of 66
  EXPECT_EQ(gated(640, 14336), 0);
  EXPECT_EQ(gated(2048, 14336), 0);
  EXPECT_EQ(gated(128, 1024), 0);  // 16 tiles at most

  const auto plain = [](int64_t rows, int64_t columns, int64_t depth) {
    const int plan = plan_medium({rows, columns, depth, false, 132});
    if (plan < 0) return 0;
    EXPECT(!kMediumPlans[plan].is_gated);
    return kMediumPlans[plan].columns * kMediumPlans[plan].split;
  };
  for (int64_t rows : {65, 120, 128}) {
    EXPECT_EQ(plain(rows, 4096, 14336), 128);  // 64 tiles, two blocks each
    EXPECT_EQ(plain(rows, 6144, 4096), 192);
  }
  EXPECT_EQ(plain(128, 4096, 448), 0);
  for (int64_t rows : {64, 129, 256}) EXPECT_EQ(plain(rows, 4096, 14336), 0);
  EXPECT_EQ(plain(128, 8192, 4096), 0);  // 128 tiles of 64 columns, 86 of 96
  EXPECT_EQ(plain(128, 2048, 8192), 0);
}

void check_narrow() {
  EXPECT(is_narrow(1, 2048, 2048, 132));
  EXPECT(is_narrow(1, 16384, 2048, 132));
  EXPECT(is_narrow(1, 2048, 8192, 132));
  EXPECT(is_narrow(4, 2048, 2048, 132));
  EXPECT(!is_narrow(5, 2048, 2048, 132));
  EXPECT(!is_narrow(1, 2048, 2056, 132));
  EXPECT(!is_narrow(1, 4096, 4096, 132));    // stripes
  EXPECT(!is_narrow(1, 128256, 2048, 132));  // a head
}

void check_groups() {
  const auto groups = [](int64_t columns, bool is_gated) {
    return narrow_groups(columns, is_gated, 132);
  };
  EXPECT_EQ(groups(2048, false), 2);  // 128 tiles
  EXPECT_EQ(groups(3072, false), 3);  // 128 tiles
  EXPECT_EQ(groups(4096, false), 4);  // 128 tiles rather than twice 128
  EXPECT_EQ(groups(6144, false), 3);  // twice 128 tiles
  EXPECT_EQ(groups(8192, true), 4);
  EXPECT_EQ(groups(14336, true), 4);
  EXPECT_EQ(groups(1024, true), 2);
  EXPECT_EQ(groups(128256, false), 4);
}

}  // namespace
}  // namespace inflight::cuda

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"products", cuda::check_products},
                             {"plans", cuda::check_plans},
                             {"stripes", cuda::check_stripes},
                             {"slices", cuda::check_slices},
                             {"bands", cuda::check_bands},
                             {"wide", cuda::check_wide},
                             {"medium", cuda::check_medium},
                             {"narrow", cuda::check_narrow},
                             {"groups", cuda::check_groups}},
                            argc, argv);
}
