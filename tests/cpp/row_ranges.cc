// Every row count is in one range, and going down from a size meets each range below it once.
#include "kernels/core/row_ranges.h"

#include "tests/cpp/testing.h"

namespace inflight::testing {
namespace {

constexpr int64_t kMost = 20000;

void ranges_follow_each_other() {
  int64_t before = 0, end = row_range_end(1);
  for (int64_t rows = 1; rows <= kMost; ++rows) {
    if (rows > end) {
      before = end;
      end = row_range_end(rows);
      EXPECT_EQ(end - before, row_range_size(rows));
    }
    EXPECT_EQ(row_range_end(rows), end);
    EXPECT_EQ(row_range_below(rows), before);
  }
}

void padded_steps_of_generation_end_ranges() {
  for (int64_t rows = 16; rows <= 1024; rows *= 2) EXPECT_EQ(row_range_end(rows), rows);
  int num_ranges = 0;
  for (int64_t rows = 8192; rows > 0; rows = row_range_below(rows)) ++num_ranges;
  EXPECT_EQ(num_ranges, 34);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases({{"follow_each_other", ranges_follow_each_other},
                    {"padded_steps", padded_steps_of_generation_end_ranges}},
                   argc, argv);
}
