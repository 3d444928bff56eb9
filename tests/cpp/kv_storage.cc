// The memory of the KV pool: that its views are the layout that attention and the append op read,
// that no two elements overlap, and that all of it goes back to the system.
#include "backend/kv_cache/kv_storage.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <vector>

#include "backend/executor/cache_groups.h"
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

/// int8: each layer's values, then a factor for each token's head, both where vectors may begin.
void scales_lie_behind_their_layer() {
  const Geometry geometry(4);
  const KvStorage storage({{1, 3}, {2, 8}}, geometry, DType::kInt8, 3, Device{});
  const auto* start = static_cast<std::byte*>(storage.block(Tier::kDevice, 0));
  const auto offset_of = [&](const TensorView& view) {
    return static_cast<std::byte*>(view.data) - start;
  };
  EXPECT_EQ(offset_of(storage.layer_view(0)), 0);      // 2 * 1 * 4 * 3 = 24 bytes
  EXPECT_EQ(offset_of(storage.layer_scales(0)), 32);   // 2 * 1 * 4 floats
  EXPECT_EQ(offset_of(storage.layer_view(1)), 64);     // 2 * 2 * 4 * 8 = 128 bytes
  EXPECT_EQ(offset_of(storage.layer_scales(1)), 192);  // 2 * 2 * 4 floats
  EXPECT_EQ(storage.block_bytes(), int64_t{256});
  const TensorView values = storage.layer_view(1), scales = storage.layer_scales(1);
  EXPECT(scales.shape == (std::array<int64_t, 5>{3, 2, 2, 4}));
  EXPECT_EQ(scales.strides[0], int64_t{64});
  EXPECT_EQ(values.strides[0], int64_t{256});
  const KvStorage plain({{1, 3}}, geometry, DType::kFloat8E4M3, 1, Device{});
  EXPECT_EQ(plain.block_bytes(), int64_t{24});
  EXPECT(!plain.layer_scales(0));
}

/// What memory is divided by and blocks are carried by is what storage takes, in every format.
void accounts_are_what_storage_takes() {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat8E4M3, DType::kInt8}) {
    plan::KvCacheSpec spec{.dtype = dtype, .tokens_per_block = 5, .layers = {{2, 7}, {1, 8, 16}}};
    spec.groups = {{0, 0, {0}}, {16, 0, {1}}};
    const std::vector<executor::KvGroupInfo> groups = executor::kv_groups(spec);
    // Two heads of 7 and one of 8, k and v, of 5 tokens; int8 with a float each, where vectors may
    // begin.
    const int64_t size = size_of(dtype);
    const bool is_int8 = dtype == DType::kInt8;
    EXPECT_EQ(groups[0].bytes_per_block, is_int8 ? int64_t{144 + 80} : 140 * size);
    EXPECT_EQ(groups[1].bytes_per_block, is_int8 ? int64_t{80 + 48} : 80 * size);
    for (size_t g = 0; g < groups.size(); ++g) {
      const KvStorage storage({{spec.layers[g].num_kv_heads, spec.layers[g].head_size}},
                              Geometry(5), dtype, 3, Device{}, 2);
      EXPECT_EQ(storage.block_bytes(), groups[g].bytes_per_block);
      EXPECT_EQ(storage.bytes(), 3 * groups[g].bytes_per_block);
      EXPECT_EQ(storage.host_bytes(), 2 * groups[g].bytes_per_block);
    }
  }
}

void host_tier_is_beside_the_pool() {
  const KvStorage storage({{1, 8}}, Geometry(4), DType::kFloat32, 3, Device{}, 5);
  EXPECT_EQ(storage.bytes(), 3 * storage.block_bytes());
  EXPECT_EQ(storage.host_bytes(), 5 * storage.block_bytes());
  EXPECT_RAISES(storage.block(Tier::kHost, 5), "host block 5 of 5");
  EXPECT_RAISES(storage.block(Tier::kDevice, -1), "device block -1 of 3");
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
  EXPECT_RAISES(KvStorage({{1, 8}}, geometry, DType::kFloat32, 1, {}, -1).host_bytes(),
                "host tier of -1 KV blocks");
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
          {"scales_lie_behind_their_layer", scales_lie_behind_their_layer},
          {"accounts_are_what_storage_takes", accounts_are_what_storage_takes},
          {"host_tier_is_beside_the_pool", host_tier_is_beside_the_pool},
          {"untouched_pool_takes_no_memory_and_all_goes_back",
           untouched_pool_takes_no_memory_and_all_goes_back},
          {"impossible_sizes_are_refused", impossible_sizes_are_refused},
      },
      argc, argv);
}
