// Memory in large pages behind a pool: what comes back is used again, whatever its size.
#include "kernels/core/large_pages.h"

#include "tests/cpp/testing.h"

namespace inflight {
namespace {

void check_used_again() {
  LargePages pages;
  std::pmr::unsynchronized_pool_resource pool(LargePages::kPool, &pages);
  const auto lap = [&] {
    for (size_t bytes = 64; bytes <= size_t{8} << 20; bytes *= 2)
      pool.deallocate(pool.allocate(bytes, 8), bytes, 8);
  };
  lap();
  const size_t buffers = pages.num_buffers();
  for (int i = 0; i < 1000; ++i) lap();
  EXPECT_EQ(pages.num_buffers(), buffers);
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases({{"used_again", inflight::check_used_again}}, argc, argv);
}
