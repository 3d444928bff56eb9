// The memory of the KV pool: that its views are the layout that attention and the append op read,
// that no two elements overlap, and that all of it goes back to the system.
#include "backend/kv_cache/kv_storage.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <vector>

#include "tests/cpp/testing.h"

namespace inflight::kv_cache {
namespace {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

/// Writes a number of its own into every element through the views, in any order of layers, and
/// reads the raw memory in the order of the contract.
void views_are_the_layout() {
  const std::vector<LayerSpec> layers = {{2, 3}, {1, 8}, {3, 5}};
  const Geometry geometry(4);
  const int32_t num_blocks = 5;
  KvStorage storage(layers, geometry, DType::kInt32, num_blocks, Device{});
  EXPECT_EQ(bytes_per_block(layers, geometry, DType::kInt32),
            int64_t{4} * 2 * 4 * (2 * 3 + 1 * 8 + 3 * 5));
  EXPECT_EQ(storage.bytes(), bytes_per_block(layers, geometry, DType::kInt32) * num_blocks);
  EXPECT_EQ(storage.num_layers(), 3);

  int32_t count = 0;
  const auto* raw = storage.layer_view(0).as<int32_t>();
  for (int32_t block = 0; block < num_blocks; ++block)
    for (int layer = 0; layer < storage.num_layers(); ++layer) {
      const TensorView view = storage.layer_view(layer);
      EXPECT_EQ(view.rank, 5);
      EXPECT(view.shape == (std::array<int64_t, 5>{num_blocks, 2, layers[layer].num_kv_heads, 4,
                                                   layers[layer].head_size}));
      for (int64_t kv = 0; kv < 2; ++kv)
        for (int64_t head = 0; head < view.shape[2]; ++head)
          for (int64_t offset = 0; offset < view.shape[3]; ++offset)
            for (int64_t d = 0; d < view.shape[4]; ++d) {
              auto* element = view.as<int32_t>() + block * view.strides[0] + kv * view.strides[1] +
                              head * view.strides[2] + offset * view.strides[3] +
                              d * view.strides[4];
              // The next element of memory: dense, in this order, none twice.
              EXPECT_EQ(element - raw, count);
              if (element != raw + count) return;
              *element = ++count;
            }
    }
  EXPECT_EQ(count * int64_t{4}, storage.bytes());
}

void untouched_pool_takes_no_memory_and_all_goes_back() {
  const std::vector<LayerSpec> layers(4, LayerSpec{8, 128});
  const Geometry geometry(32);
  const int64_t before = resident_bytes();
  const int64_t mega = int64_t{1} << 20;
  for (int round = 0; round < 3; ++round) {
    KvStorage storage(layers, geometry, DType::kBFloat16, 512, Device{});
    EXPECT_EQ(storage.bytes(), 256 * mega);
    EXPECT(resident_bytes() - before < 16 * mega);
    std::memset(storage.layer_view(0).data, 1, 128 * mega);
    EXPECT(resident_bytes() - before >= 128 * mega);
  }
  EXPECT(resident_bytes() - before < 16 * mega);
}

void impossible_sizes_are_refused() {
  const Geometry geometry(32);
  const auto make = [&](std::vector<LayerSpec> layers, int32_t num_blocks) {
    return KvStorage(std::move(layers), geometry, DType::kFloat32, num_blocks, Device{}).bytes();
  };
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  EXPECT_RAISES(make({}, 1), "at least one layer");
  EXPECT_RAISES(make({{0, 64}}, 1), "num_kv_heads 0 < 1");
  EXPECT_RAISES(make({{2, -1}}, 1), "head_size -1 < 1");
  EXPECT_RAISES(make({{2, 64}}, 0), "KV pool of 0 blocks");
  EXPECT_RAISES(make({{2, 64}}, kMax / 32 + 1), "slots are 32 bit");
  EXPECT_RAISES(make({{kMax, kMax}}, 1), "too large");
  EXPECT_RAISES(make({{kMax / 2, 4096}}, kMax / 32), "too large");
  EXPECT_RAISES(make({{4096, 4096}}, kMax / 32), "cannot allocate");
  EXPECT_RAISES(KvStorage({{1, 8}}, geometry, DType::kInt8, 1, {}).layer_view(1),
                "layer 1 of a KV pool of 1");
}

}  // namespace
}  // namespace inflight::kv_cache

int main(int argc, char** argv) {
  using namespace inflight::kv_cache;
  return inflight::testing::run_cases(
      {
          {"views_are_the_layout", views_are_the_layout},
          {"untouched_pool_takes_no_memory_and_all_goes_back",
           untouched_pool_takes_no_memory_and_all_goes_back},
          {"impossible_sizes_are_refused", impossible_sizes_are_refused},
      },
      argc, argv);
}
