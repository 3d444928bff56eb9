// The tree by itself: what it asks for ahead is what is evicted then, in that order (a wrong guess
// changes no answer, only how long a step waits for memory).
#include <cstdint>
#include <vector>

#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/prefix_index.h"
#include "tests/cpp/testing.h"

namespace inflight::kv_cache {
namespace {

constexpr int32_t kVocabSize = 1 << 16;
constexpr int32_t kNumBlocks = 1000;

class Tree {
 public:
  /// A chain of `count` blocks behind `place`, of tokens `first`, `first` + 1, ...
  PrefixPlace chain(PrefixPlace place, int32_t first, int32_t count, int32_t priority = 35) {
    for (int32_t token = first; token < first + count; ++token) {
      std::vector<uint32_t> words(index_.packing().num_words());
      EXPECT(index_.packing().pack(&token, 1, words.data()));
      const uint64_t hash = index_.packing().chain_hash(place.hash, words.data(), 1);
      index_.store(place, {hash, words.data(), 1}, pool_.take(), {.priority = priority});
    }
    return place;
  }
  /// As a table gives its blocks back, the last first.
  void release(PrefixPlace last, int32_t count) {
    for (NodeId id = last.node; count-- > 0; id = index_.node(id).parent)
      pool_.release(index_.node(id).block(Tier::kDevice));
  }
  std::vector<int32_t> expected(int32_t count) {
    std::vector<int32_t> blocks(count);
    blocks.resize(index_.prefetch_victims(blocks));
    return blocks;
  }
  std::vector<int32_t> looked_ahead() {
    std::vector<int32_t> blocks;
    while (true) {
      const int32_t block = index_.prefetch_next_victim();
      if (block == kNoBlock) return blocks;
      blocks.push_back(block);
    }
  }
  std::vector<int32_t> evict(int32_t count) {
    std::vector<int32_t> blocks;
    while (count-- > 0) {
      const NodeId id = index_.next_victim();
      blocks.push_back(index_.node(id).block(Tier::kDevice));
      index_.remove(id);
      pool_.let_go(blocks.back());
    }
    return blocks;
  }

 private:
  PrefixIndex index_{Geometry(1), kVocabSize, kNumBlocks, 0};
  BlockPool pool_{kNumBlocks, &index_};
};

void what_was_given_back_is_expected_from_its_end_on() {
  Tree tree;
  const PrefixPlace a = tree.chain({}, 0, 50), b = tree.chain({}, 100, 50);
  tree.release(a, 50);
  tree.release(b, 50);
  const std::vector<int32_t> expected = tree.expected(100);
  EXPECT_EQ(expected.size(), size_t{100});
  EXPECT(expected == tree.evict(100));
}

void parents_that_are_in_no_order_are_expected_behind_their_last_follower() {
  Tree tree;
  const PrefixPlace trunk = tree.chain({}, 0, 20, 10);
  const PrefixPlace leaf = tree.chain(trunk, 20, 1, 90);
  tree.release(leaf, 21);
  const PrefixPlace other = tree.chain({}, 100, 1, 95);
  tree.release(other, 1);
  tree.evict(1);  // the leaf; takes the trunk off the order
  const std::vector<int32_t> expected = tree.expected(20);
  EXPECT(expected == tree.evict(20));
}

void each_is_looked_at_once_however_often_others_leave() {
  Tree tree;
  std::vector<PrefixPlace> chains;
  for (int32_t i = 0; i < 16; ++i) {
    chains.push_back(tree.chain({}, 50 * i, 50));
    tree.release(chains.back(), 50);
  }
  const std::vector<int32_t> first = tree.looked_ahead();
  EXPECT_EQ(first.size(), size_t{EvictionOrder::kMaxAhead});
  EXPECT(tree.looked_ahead().empty());
  std::vector<int32_t> evicted = tree.evict(100);
  const std::vector<int32_t> second = tree.looked_ahead();
  EXPECT_EQ(second.size(), size_t{100});
  std::vector<int32_t> all = first;
  all.insert(all.end(), second.begin(), second.end());
  const std::vector<int32_t> later = tree.evict(256);
  evicted.insert(evicted.end(), later.begin(), later.end());
  EXPECT(all == evicted);
  EXPECT_EQ(tree.looked_ahead().size(), size_t{EvictionOrder::kMaxAhead});
}

}  // namespace
}  // namespace inflight::kv_cache

int main(int argc, char** argv) {
  using namespace inflight::kv_cache;
  return inflight::testing::run_cases(
      {
          {"what_was_given_back_is_expected_from_its_end_on",
           what_was_given_back_is_expected_from_its_end_on},
          {"parents_that_are_in_no_order_are_expected_behind_their_last_follower",
           parents_that_are_in_no_order_are_expected_behind_their_last_follower},
          {"each_is_looked_at_once_however_often_others_leave",
           each_is_looked_at_once_however_often_others_leave},
      },
      argc, argv);
}
