// The tree by itself: what it asks for ahead is what is evicted then, in that order (a wrong guess
// changes no answer, only how long a step waits for memory), and how it forgets long chains.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/kv_cache/block_pool.h"
#include "backend/kv_cache/prefix_index.h"
#include "tests/cpp/testing.h"

namespace inflight::kv_cache {
namespace {

constexpr int32_t kVocabSize = 1 << 16;

class Tree {
 public:
  explicit Tree(int32_t num_blocks = 1000)
      : index_(Geometry(1), kVocabSize, num_blocks, 0), pool_(num_blocks, &index_) {}

  /// A chain of `count` blocks behind `place`, of tokens `first`, `first` + 1, ...
  PrefixPlace chain(PrefixPlace place, int32_t first, int32_t count, int32_t priority = 35) {
    for (int32_t i = 0; i < count; ++i) {
      const int32_t token = (first + i) % kVocabSize;
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
  /// Nodes in the order in which they are forgotten: `first` and all behind it.
  std::vector<NodeId> remove_tree(NodeId first) {
    std::vector<NodeId> nodes;
    index_.remove_tree(first, [&](NodeId id) {
      nodes.push_back(id);
      pool_.let_go(index_.node(id).block(Tier::kDevice));
    });
    return nodes;
  }
  NodeId parent(NodeId id) const { return index_.node(id).parent; }
  int32_t num_nodes() const { return index_.num_nodes(); }

 private:
  PrefixIndex index_;
  BlockPool pool_;
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

void a_chain_of_a_million_blocks_is_forgotten_from_its_end_on() {
  constexpr int32_t kLength = 1'000'000;
  Tree tree(kLength);
  const PrefixPlace trunk = tree.chain({}, 0, 1);
  const PrefixPlace last = tree.chain(trunk, 1, kLength - 1);
  tree.release(last, kLength);
  const std::vector<NodeId> nodes = tree.remove_tree(trunk.node);
  EXPECT_EQ(nodes.size(), size_t{kLength});
  EXPECT(nodes.front() == last.node && nodes.back() == trunk.node);
  EXPECT_EQ(tree.num_nodes(), 0);
}

void branches_are_forgotten_before_what_they_follow_and_nothing_beside_them() {
  Tree tree;
  const PrefixPlace root = tree.chain({}, 0, 2);
  const PrefixPlace trunk = tree.chain(root, 2, 3);
  std::vector<PrefixPlace> branches;
  for (int32_t i = 0; i < 5; ++i) branches.push_back(tree.chain(trunk, 10 * i + 10, i + 1));
  const PrefixPlace beside = tree.chain(root, 100, 1);
  const NodeId first = tree.parent(tree.parent(trunk.node));
  for (int32_t i = 4; i >= 0; --i) tree.release(branches[i], i + 1);
  tree.release(trunk, 3);
  tree.release(beside, 3);
  std::vector<NodeId> nodes = tree.remove_tree(first);
  EXPECT_EQ(nodes.size(), size_t{3 + 1 + 2 + 3 + 4 + 5});
  EXPECT_EQ(nodes.back(), first);
  EXPECT_EQ(tree.num_nodes(), 3);
  std::ranges::sort(nodes);
  EXPECT(std::ranges::adjacent_find(nodes) == nodes.end());
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
          {"a_chain_of_a_million_blocks_is_forgotten_from_its_end_on",
           a_chain_of_a_million_blocks_is_forgotten_from_its_end_on},
          {"branches_are_forgotten_before_what_they_follow_and_nothing_beside_them",
           branches_are_forgotten_before_what_they_follow_and_nothing_beside_them},
      },
      argc, argv);
}
