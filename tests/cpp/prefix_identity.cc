// Blocks whose hashes are the same where the tree keeps them, of other tokens or behind other
// blocks, are not taken for each other: a hash only finds candidates. Such blocks are found by
// birthday, as of 400,000 hashes of 32 bits some 18 pairs are equal.
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "tests/cpp/testing.h"

namespace inflight::kv_cache {
namespace {

constexpr int32_t kVocabSize = 1 << 16;
constexpr int32_t kNumBlocks = 400'000;  // looked at
using Block = std::array<int32_t, 2>;

Block block_of(int32_t number) { return {number % kVocabSize, number / kVocabSize}; }

uint64_t hash_behind(uint64_t before, const Block& block) {
  const TokenPacking packing(kVocabSize, 2);
  uint32_t words = 0;
  EXPECT_EQ(packing.num_words(), 1);
  EXPECT(packing.pack(block.data(), 2, &words));
  return packing.chain_hash(before, &words, 2);
}

/// Pairs of numbers of blocks for which the upper halves of `hash_of` are equal.
template <typename HashOf>
std::vector<std::pair<int32_t, int32_t>> collisions(const HashOf& hash_of) {
  std::vector<std::pair<uint32_t, int32_t>> all;
  for (int32_t i = 0; i < kNumBlocks; ++i)
    all.push_back({static_cast<uint32_t>(hash_of(block_of(i)) >> 32), i});
  std::ranges::sort(all);
  std::vector<std::pair<int32_t, int32_t>> pairs;
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i].first == all[i - 1].first) pairs.push_back({all[i - 1].second, all[i].second});
  }
  EXPECT(!pairs.empty());
  return pairs;
}

class Cache {
 public:
  void run(const std::vector<int32_t>& tokens) {
    const TableId table = manager_.open({.tokens = {tokens, {}}});
    const int32_t found = manager_.num_cached_tokens(table);
    const Growth growth{table, found, static_cast<int32_t>(tokens.size()) - found};
    manager_.reserve({&growth, 1})->commit([&](int32_t) { return TokenView{tokens, {}}; });
    manager_.release(table);
  }
  /// Of whole blocks, before a token of its own.
  int32_t found(std::vector<int32_t> tokens) const {
    tokens.push_back(0);
    return manager_.match({tokens, {}}).num_tokens;
  }

 private:
  KvCacheManager manager_{
      Geometry(2),
      64,
      {.enable_reuse = true, .enable_partial_reuse = false, .vocab_size = kVocabSize}};
};

std::vector<int32_t> joined(const Block& first, const Block& second) {
  return {first[0], first[1], second[0], second[1]};
}

void other_tokens_of_the_same_hash() {
  for (const auto& [i, j] :
       collisions([](const Block& b) { return hash_behind(PrefixRoots::kDefaultHash, b); })) {
    const Block a = block_of(i), b = block_of(j);
    Cache cache;
    cache.run({a[0], a[1]});
    EXPECT_EQ(cache.found({b[0], b[1]}), 0);
    cache.run({b[0], b[1]});
    EXPECT_EQ(cache.found({a[0], a[1]}), 2);
    EXPECT_EQ(cache.found({b[0], b[1]}), 2);
  }
}

void the_same_tokens_behind_other_blocks() {
  const Block last{7, 8}, another{9, 9};
  for (const auto& [i, j] : collisions([&](const Block& b) {
         return hash_behind(hash_behind(PrefixRoots::kDefaultHash, b), last);
       })) {
    const Block a = block_of(i), b = block_of(j);
    Cache cache;
    cache.run(joined(a, last));
    cache.run(joined(b, another));
    EXPECT_EQ(cache.found(joined(b, last)), 2);
    cache.run(joined(b, last));
    EXPECT_EQ(cache.found(joined(a, last)), 4);
    EXPECT_EQ(cache.found(joined(b, last)), 4);
  }
}

}  // namespace
}  // namespace inflight::kv_cache

int main(int argc, char** argv) {
  using namespace inflight::kv_cache;
  return inflight::testing::run_cases(
      {
          {"other_tokens_of_the_same_hash", other_tokens_of_the_same_hash},
          {"the_same_tokens_behind_other_blocks", the_same_tokens_behind_other_blocks},
      },
      argc, argv);
}
