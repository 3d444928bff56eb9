// The sizes of recorded batches. What is recorded is tested by engines on a GPU.
#include "backend/plan/cuda_graphs.h"

#include <set>

#include "tests/cpp/testing.h"

namespace inflight {
namespace {

void sizes() {
  const std::pair<int, int> expected[] = {{1, 1},   {2, 2},     {3, 4},     {5, 8},     {9, 16},
                                          {17, 24}, {127, 128}, {128, 128}, {129, 160}, {256, 256}};
  for (const auto& [num_sequences, size] : expected) {
    EXPECT_EQ(plan::graph_batch_size(num_sequences, 1024), size);
  }
  EXPECT_EQ(plan::graph_batch_size(3, 3), 3);
  EXPECT_EQ(plan::graph_batch_size(131, 140), 140);
  for (int max_batch_size : {1, 3, 100, 256, 1024}) {
    std::set<std::pair<int, int>> batches;  // sizes, columns
    std::set<int> prompts;                  // rows
    for (int count = 1; count <= max_batch_size; ++count) {
      const int size = plan::graph_batch_size(count, max_batch_size);
      EXPECT(size >= count && size <= max_batch_size);
      EXPECT_EQ(plan::graph_batch_size(size, max_batch_size), size);
      for (int columns = 1; columns <= 64; ++columns) {
        const int recorded = plan::graph_columns(size, columns, 32, 64);
        EXPECT(recorded >= columns && recorded <= 64);
        batches.emplace(size, recorded);
      }
    }
    for (int rows = 2; rows <= 8192; ++rows) prompts.insert(plan::graph_prompt_rows(rows, 8192));
    // With a last launch and without.
    EXPECT(2 * (batches.size() + prompts.size()) <= plan::CudaGraphs::kMaxGraphs);
  }
}

void columns() {
  EXPECT_EQ(plan::graph_columns(8, 1, 32, 64), 16);
  EXPECT_EQ(plan::graph_columns(64, 16, 32, 64), 16);
  EXPECT_EQ(plan::graph_columns(72, 1, 32, 64), 64);
  EXPECT_EQ(plan::graph_columns(8, 17, 32, 64), 64);
  EXPECT_EQ(plan::graph_columns(8, 3, 32, 10), 10);
  EXPECT_EQ(plan::graph_columns(8, 1, 1024, 64), 64);
}

void prompts() {
  const std::pair<int, int> expected[] = {{2, 32},    {32, 32},   {33, 64}, {128, 128},
                                          {511, 512}, {512, 512}, {513, 0}, {8192, 0}};
  for (const auto& [num_tokens, rows] : expected) {
    EXPECT_EQ(plan::graph_prompt_rows(num_tokens, 8192), rows);
  }
  EXPECT_EQ(plan::graph_prompt_rows(90, 100), 96);
  EXPECT_EQ(plan::graph_prompt_rows(98, 100), 100);
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases(
      {{"sizes", inflight::sizes}, {"columns", inflight::columns}, {"prompts", inflight::prompts}},
      argc, argv);
}
