#include "backend/kv_cache/invariants.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "backend/kv_cache/geometry.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

class Checker {
 public:
  explicit Checker(const CacheSnapshot& snapshot)
      : snapshot_(snapshot), num_blocks_(snapshot.pool.num_blocks) {}

  std::vector<std::string> run() {
    if (static_cast<int32_t>(snapshot_.pool.ref_counts.size()) != num_blocks_) {
      broken("pool of ", num_blocks_, " blocks has ", snapshot_.pool.ref_counts.size(), " counts");
      return found_;
    }
    references_.assign(num_blocks_, 0);
    for (const TableSnapshot& table : snapshot_.tables) check_table(table);
    for (int32_t block : snapshot_.replaced) {
      if (is_block(block, "the list of replaced ones")) ++references_[block];
    }
    copies_.assign(num_blocks_, 0);
    for (const TableSnapshot& table : snapshot_.tables) {
      if (table.copied_block != kNoBlock && is_block(table.copied_block, "a copy"))
        ++copies_[table.copied_block];
    }
    find_nodes();
    check_free_list();
    for (int32_t block = 0; block < num_blocks_; ++block) {
      const int32_t count = snapshot_.pool.ref_counts[block];
      const int32_t expected = references_[block] + copies_[block];
      if (count != expected)
        broken("block ", block, " has count ", count, ", ", expected, " table entries name it");
    }
    check_tree();
    for (const TableSnapshot& table : snapshot_.tables) check_writable(table);
    return found_;
  }

 private:
  void check_table(const TableSnapshot& table) {
    if (table.num_committed < 0 || table.num_committed > table.num_reserved)
      broken("table ", table.table, " has ", table.num_committed, " committed of ",
             table.num_reserved, " reserved tokens");
    const Geometry geometry(snapshot_.tokens_per_block);
    const int32_t needed = geometry.num_blocks(std::max(table.num_reserved, 0)) - table.num_to_come;
    if (static_cast<int32_t>(table.block_ids.size()) != needed)
      broken("table ", table.table, " has ", table.block_ids.size(), " blocks, its ",
             table.num_reserved, " tokens need ", needed);
    std::vector<int32_t> sorted = table.block_ids;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
      broken("table ", table.table, " names a block twice");
    const auto held = static_cast<int32_t>(table.block_ids.size());
    if (table.room != 0 && table.room != held * snapshot_.tokens_per_block)
      broken("table ", table.table, " has room for ", table.room, " tokens in ", held, " blocks");
    for (int32_t block : table.block_ids) {
      if (block < 0 || block >= num_blocks_) {
        broken("table ", table.table, " names block ", block, " of a pool of ", num_blocks_);
      } else {
        ++references_[block];
      }
    }
  }

  bool is_block(int32_t block, const char* where) {
    if (block >= 0 && block < num_blocks_) return true;
    broken("block ", block, " of ", where, " is not of the pool of ", num_blocks_);
    return false;
  }

  void find_nodes() {
    node_of_.assign(num_blocks_, nullptr);
    std::set<int32_t> host_blocks;
    for (const NodeSnapshot& node : snapshot_.nodes) {
      if (!nodes_.emplace(node.node, &node).second) broken("node ", node.node, " is there twice");
      if (node.device_block == kNoBlock && node.host_block == kNoBlock)
        broken("node ", node.node, " has no block");
      if (node.device_block != kNoBlock && is_block(node.device_block, "a node")) {
        if (node_of_[node.device_block] != nullptr)
          broken("block ", node.device_block, " is of nodes ", node_of_[node.device_block]->node,
                 " and ", node.node);
        node_of_[node.device_block] = &node;
      }
      if (node.host_block != kNoBlock &&
          (node.host_block < 0 || node.host_block >= snapshot_.num_host_blocks ||
           !host_blocks.insert(node.host_block).second))
        broken("node ", node.node, " has host block ", node.host_block, " of ",
               snapshot_.num_host_blocks, ", or another has it, too");
    }
    for (const int32_t block : snapshot_.free_host_ids) {
      if (block < 0 || block >= snapshot_.num_host_blocks || !host_blocks.insert(block).second)
        broken("host block ", block, " of the free list is not of the ", snapshot_.num_host_blocks,
               ", or is taken, or is free twice");
    }
    if (static_cast<int32_t>(host_blocks.size()) != snapshot_.num_host_blocks)
      broken(host_blocks.size(), " host blocks are free or hold something, of ",
             snapshot_.num_host_blocks);
  }

  void check_tree() {
    std::set<std::pair<NodeId, std::vector<int32_t>>> contents;
    for (const NodeSnapshot& node : snapshot_.nodes) {
      if (!contents.emplace(node.parent, node.tokens).second)
        broken("node ", node.node, " has the tokens of another child of ", node.parent);
      const bool on_device = node.device_block != kNoBlock;
      if (on_device && node.device_block >= 0 && node.device_block < num_blocks_ &&
          node.is_used != (snapshot_.pool.ref_counts[node.device_block] > 0))
        broken("node ", node.node, " is ", node.is_used ? "" : "not ", "used, its block ",
               node.device_block, " has count ", snapshot_.pool.ref_counts[node.device_block]);
      if (node.parent < 0) continue;
      const auto parent = nodes_.find(node.parent);
      if (parent == nodes_.end()) {
        broken("node ", node.node, " follows node ", node.parent, ", which is not there");
        continue;
      }
      if (static_cast<int32_t>(parent->second->tokens.size()) != snapshot_.tokens_per_block)
        broken("node ", node.parent, " has a child, and ", parent->second->tokens.size(),
               " tokens");
      if (on_device && parent->second->device_block == kNoBlock)
        broken("node ", node.node, " is on the device, its parent ", node.parent, " is not");
      if (node.is_used && !parent->second->is_used)
        broken("node ", node.node, " is used, its parent ", node.parent, " is not");
    }
    for (const TableSnapshot& table : snapshot_.tables) check_path(table);
  }

  void check_path(const TableSnapshot& table) {
    const NodeSnapshot* last = nullptr;
    const auto count = std::min<size_t>(table.num_stored, table.block_ids.size());
    for (size_t i = 0; i < count; ++i) {
      const int32_t block = table.block_ids[i];
      const NodeSnapshot* node = block >= 0 && block < num_blocks_ ? node_of_[block] : nullptr;
      if (node == nullptr || (last == nullptr ? node->parent >= 0 : node->parent != last->node)) {
        broken("block ", block, " of table ", table.table, " is not in the tree at depth ", i);
        return;
      }
      last = node;
    }
  }

  void check_free_list() {
    std::vector<bool> is_free(num_blocks_, false);
    for (int32_t block : snapshot_.pool.free_ids) {
      if (block < 0 || block >= num_blocks_) {
        broken("block ", block, " of the free list is not of the pool of ", num_blocks_);
        continue;
      }
      if (is_free[block]) broken("block ", block, " is free twice");
      is_free[block] = true;
    }
    for (int32_t block = 0; block < num_blocks_; ++block) {
      const int32_t count = snapshot_.pool.ref_counts[block];
      if (is_free[block] && count != 0) broken("free block ", block, " has count ", count);
      if (!is_free[block] && count == 0 && node_of_[block] == nullptr)
        broken("block ", block, " is neither free nor used nor cached");
      if (is_free[block] && node_of_[block] != nullptr)
        broken("free block ", block, " is in the tree");
    }
  }

  void check_writable(const TableSnapshot& table) {
    const size_t first = std::max(table.num_committed, 0) / snapshot_.tokens_per_block;
    for (size_t i = first; i < table.block_ids.size(); ++i) {
      const int32_t block = table.block_ids[i];
      if (block >= 0 && block < num_blocks_ && references_[block] > 1)
        broken("block ", block, " is still written by table ", table.table, " and has ",
               references_[block], " owners");
      if (block >= 0 && block < num_blocks_ && node_of_[block] != nullptr)
        broken("block ", block, " is still written by table ", table.table, " and is in the tree");
    }
  }

  template <typename... Parts>
  void broken(const Parts&... parts) {
    found_.push_back(concat(parts...));
  }

  const CacheSnapshot& snapshot_;
  const int32_t num_blocks_;
  std::vector<int32_t> references_;  // table entries by block
  std::vector<int32_t> copies_;      // tables that copy from it, by block
  std::map<NodeId, const NodeSnapshot*> nodes_;
  std::vector<const NodeSnapshot*> node_of_;  // by block
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> violations(const CacheSnapshot& snapshot) {
  std::vector<std::string> found = Checker(snapshot).run();
  for (const WindowSnapshot& window : snapshot.windows) {
    for (std::string& sentence : window_violations(window))
      found.push_back(concat("window of ", window.window.window, ": ", sentence));
  }
  return found;
}

void check_invariants(const CacheSnapshot& snapshot) {
  const std::vector<std::string> found = violations(snapshot);
  std::string message = "KV cache invariants broken:";
  for (const std::string& sentence : found) message += " " + sentence + ";";
  check_internal(found.empty(), message);
}

}  // namespace inflight::kv_cache
