// The part of KvCacheManager that has to do with blocks used again: what a table begins with, and
// what goes when blocks are needed.
#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "backend/kv_cache/kv_cache_manager.h"
#include "kernels/core/check.h"

namespace inflight::kv_cache {

PrefixIndex::Found KvCacheManager::find(const TokenView& tokens, int32_t root,
                                        Onboarding onboarding) const {
  if (tokens.size() == 0) return {};
  const PrefixPlace start{~root, index_->roots().hash(root)};
  PrefixIndex::Found found = within_windows(
      index_->find(tokens, tokens.size() - 1, start, options_.enable_partial_reuse), tokens, start);
  const int32_t size = geometry_.tokens_per_block();
  const bool in_host =
      found.partial != kNoNode && !index_->node(found.partial).is_in(Tier::kDevice);
  if (found.num_in_host > 0 &&
      !is_worth_onboarding(found.num_in_host, found.num_in_host * size, onboarding))
    return index_->find(tokens, (found.num_blocks - found.num_in_host) * size, start, false);
  if (in_host && !is_worth_onboarding(1, found.num_partial, onboarding)) {
    found.partial = kNoNode;
    found.num_partial = 0;
  }
  return found;
}

PrefixMatch KvCacheManager::match(const TokenView& tokens, const PrefixScope* scope, TableId twin,
                                  PrefixLookup* lookup) const {
  const PrefixLookup before = lookup == nullptr ? PrefixLookup{} : std::exchange(*lookup, {});
  const int32_t root = index_ ? index_->roots().find(scope) : PrefixRoots::kNone;
  if (root == PrefixRoots::kNone) return {};
  PrefixIndex::Found found;
  if (is_current(before, root) && !before.is_complete) {
    found = before.found;
    if (options_.enable_partial_reuse) index_->find_partial(tokens, tokens.size() - 1, found);
  } else {
    found = find(tokens, root);
  }
  // What windows keep changes without the index.
  if (lookup != nullptr && windows_.empty()) *lookup = {found, index_->num_changes(), root, true};
  const int32_t num_copied = std::max(found.num_partial, tokens_of_twin(tokens, twin, found));
  return {.num_tokens = found.num_blocks * geometry_.tokens_per_block() + num_copied,
          .num_blocks = found.num_blocks,
          .num_used_blocks = found.num_used,
          .num_host_blocks = found.num_in_host,
          .num_copied_tokens = num_copied};
}

int32_t KvCacheManager::num_whole_tokens(const TokenView& tokens, const PrefixScope* scope,
                                         PrefixLookup& lookup) const {
  lookup = {};
  const int32_t root = index_ ? index_->roots().find(scope) : PrefixRoots::kNone;
  if (root == PrefixRoots::kNone || tokens.size() == 0) return 0;
  // What windows keep, and whether it pays to copy from the host, is more than the tree knows.
  const bool tells_all = windows_.empty() && host_.num_blocks() == 0;
  const PrefixPlace start{~root, index_->roots().hash(root)};
  const PrefixIndex::Found found =
      tells_all ? index_->find(tokens, tokens.size() - 1, start, false) : find(tokens, root);
  if (tells_all) lookup = {found, index_->num_changes(), root, false};
  return found.num_blocks * geometry_.tokens_per_block();
}

int32_t KvCacheManager::tokens_of_twin(const TokenView& tokens, TableId twin,
                                       const PrefixIndex::Found& found) const {
  if (twin < 0 || !options_.enable_partial_reuse || at(twin).num_missing > 0) return 0;
  const int32_t first = found.num_blocks * geometry_.tokens_per_block();
  const int32_t end =
      std::min({progress_of(twin).num_committed, static_cast<int32_t>(tokens.prompt.size()),
                tokens.size() - 1, first + geometry_.tokens_per_block()});
  return std::max(0, end - first);
}

void KvCacheManager::begin(TableId id, const TableRequest& request) {
  Table& table = tables_[id];
  table.may_store = true;
  table.root = index_->roots().acquire(request.scope);
  table.place = {~table.root, index_->roots().hash(table.root)};
  table.retention = request.retention;
  table.prompt_len = static_cast<int32_t>(request.tokens.prompt.size());
  if (!request.may_reuse) return;

  const PrefixLookup* const lookup = request.lookup;
  const bool is_known = lookup != nullptr && lookup->is_complete && is_current(*lookup, table.root);
  const PrefixIndex::Found found =
      is_known ? lookup->found : find(request.tokens, table.root, request.onboarding);
  if (found.num_blocks > 0) table.place = found.last;
  table.num_stored = found.num_blocks;
  table.num_missing = found.num_in_host;
  path_.resize(found.num_blocks);
  index_->path(table.place.node, path_);
  table.blocks.reserve(geometry_.num_blocks(request.tokens.size()));
  for (const NodeId node_id : path_) {
    const PrefixNode& node = index_->node(node_id);
    if (!node.is_in(Tier::kDevice)) continue;
    pool_.prefetch(node.block(Tier::kDevice));
    index_->prefetch_node_of(node.block(Tier::kDevice));
  }
  for (int32_t i = 0; i < found.num_blocks; ++i) {
    const PrefixNode& node = index_->node(path_[i]);
    if (node.is_in(Tier::kDevice)) {
      table.blocks.append_kept(node.block(Tier::kDevice));
    } else {
      pin_host_node(path_[i]);
    }
    if (request.retention != nullptr) index_->set_retention(path_[i], retention_of(table, i));
  }

  const int32_t first = found.num_blocks * geometry_.tokens_per_block();
  begin_in_part(table, request, found);
  const int32_t num_tokens = first + table.source.num_tokens;
  progress_[id].num_committed = progress_[id].num_reserved = num_tokens;
  table.lacks_start = table.source.num_tokens > 0 || table.num_missing > 0;
  update_room(id);
}

void KvCacheManager::count_hits(TableId id) {
  const Table& table = tables_[id];
  const int32_t num_tokens = progress_[id].num_committed;
  prefix_statistics_.hit_tokens += num_tokens;
  prefix_statistics_.host_hit_tokens += table.num_missing * geometry_.tokens_per_block();
  prefix_statistics_.hit_blocks += geometry_.num_blocks(num_tokens);
  prefix_statistics_.copied_blocks += table.source.num_tokens > 0 ? 1 : 0;
}

void KvCacheManager::begin_in_part(Table& table, const TableRequest& request,
                                   const PrefixIndex::Found& found) {
  CopySource& source = table.source;
  const int32_t count = tokens_of_twin(request.tokens, request.twin, found);
  if (count > found.num_partial) {
    source = {.num_tokens = count, .block = at(request.twin).blocks.ids()[found.num_blocks]};
    pool_.retain(source.block);
    return;
  }
  if (found.partial == kNoNode) return;
  const PrefixNode& node = index_->node(found.partial);
  source.num_tokens = found.num_partial;
  if (node.is_in(Tier::kDevice)) {
    source.block = node.block(Tier::kDevice);
    pool_.retain(source.block);
  } else {
    source.host_node = found.partial;
    pin_host_node(found.partial);
  }
}

void KvCacheManager::drop_source(Table& table) {
  if (table.source.block != kNoBlock) pool_.release(table.source.block);
  if (table.source.host_node != kNoNode) unpin_host_node(table.source.host_node);
  table.source = {};
}

bool KvCacheManager::is_enough(std::span<const Growth> step, int32_t needed, bool& is_tight) {
  if (needed <= pool_.num_free() + pool_.num_kept()) return true;
  // Blocks that are only copied from can be had, too, by the last who copies from them.
  const auto for_each_source = [&](const auto& act) {
    for (const Growth& growth : step) {
      const int32_t block = tables_[growth.table].source.block;
      if (block != kNoBlock) act(block);
    }
  };
  for_each_source([this](int32_t block) { pool_.release(block); });
  is_tight = needed <= pool_.num_free() + pool_.num_kept();
  for_each_source([this](int32_t block) { pool_.retain(block); });
  return is_tight;
}

void KvCacheManager::drop_missing(Table& table) {
  if (table.num_missing == 0) return;
  path_.resize(table.num_stored);
  index_->path(table.place.node, path_);
  for (; table.num_missing > 0; --table.num_missing)
    unpin_host_node(path_[table.num_stored - table.num_missing]);
}

void KvCacheManager::bring_back(Table& table, int32_t max_copies) {
  if (table.num_missing == 0) return;
  path_.resize(table.num_stored);
  index_->path(table.place.node, path_);
  const size_t first_copy = copies_.size();
  for (; table.num_missing > 0; --table.num_missing) {
    const NodeId id = path_[table.num_stored - table.num_missing];
    const PrefixNode& node = index_->node(id);
    if (node.is_in(Tier::kDevice)) {  // another table was first
      table.blocks.append_kept(node.block(Tier::kDevice));
      unpin_host_node(id);
      continue;
    }
    const bool is_room = pool_.num_free() + pool_.num_kept() > 0;
    if (!is_room || static_cast<int64_t>(copies_.size() - first_copy) >= max_copies) return;
    const int32_t block = take_block();
    copies_.push_back(
        {Tier::kHost, node.block(Tier::kHost), Tier::kDevice, block, geometry_.tokens_per_block()});
    index_->add_device_block(id, block);
    table.blocks.append_owned(block);
    drop_host_block(id);  // what is copied into it comes after in the list
    unpin_host_node(id);
    ++prefix_statistics_.onboarded_blocks;
  }
}

void KvCacheManager::complete_start(Table& table, bool is_tight) {
  bring_back(table);
  assert(table.num_missing == 0);
  CopySource& source = table.source;
  if (source.num_tokens == 0) return;
  const int32_t num_tokens = std::exchange(source.num_tokens, 0);
  const NodeId node = source.block == kNoBlock ? kNoNode : index_->node_of(source.block);
  if (is_tight && node != kNoNode && pool_.ref_count(source.block) == 1) {
    // There is no other block, and nobody else reads this one: it is written over.
    while (index_->node(node).first_child != kNoNode)
      index_->remove_tree(index_->node(node).first_child, [this](NodeId id) { forget(id); });
    events_.removed(node, index_->node(node));
    index_->remove(node);
    table.blocks.append_owned(std::exchange(source.block, kNoBlock));
    return;
  }
  const int32_t block = take_block();
  table.blocks.append_owned(block);
  const PrefixNode* const begun =
      source.host_node == kNoNode ? nullptr : &index_->node(source.host_node);
  if (begun != nullptr && !begun->is_in(Tier::kDevice)) {
    copies_.push_back({Tier::kHost, begun->block(Tier::kHost), Tier::kDevice, block, num_tokens});
    ++prefix_statistics_.onboarded_blocks;
  } else {  // on the device, or it has come there for another table
    const int32_t from = begun == nullptr ? source.block : begun->block(Tier::kDevice);
    copies_.push_back({Tier::kDevice, from, Tier::kDevice, block, num_tokens});
    prefix_statistics_.copied_tokens += num_tokens;
    if (is_tight) drop_source(table);  // the last who copies from it will have it
  }
}

void KvCacheManager::expect_evictions(int32_t count) const {
  if (!index_ || count <= 0) return;
  std::array<int32_t, 256> blocks;  // more would not stay in the processor's caches
  const auto most = std::min<size_t>(count, blocks.size());
  const int32_t num_blocks = index_->prefetch_victims(std::span(blocks).first(most));
  for (const int32_t block : std::span(blocks).first(num_blocks)) pool_.prefetch(block);
}

void KvCacheManager::expect_changes(std::span<const int32_t> blocks) const {
  if (!index_) return;
  for (const int32_t block : blocks) {
    pool_.prefetch(block);
    index_->prefetch_node_of(block);
  }
  for (const int32_t block : blocks) index_->prefetch_header(index_->node_of(block));
}

int32_t KvCacheManager::take_block() {
  if (pool_.num_free() == 0) evict_one();
  return pool_.take();
}

void KvCacheManager::evict_one() {
  const NodeId victim = index_ ? index_->next_victim() : kNoNode;
  check_internal(victim != kNoNode, "no block can be evicted with ", pool_.num_kept(), " cached");
  ++prefix_statistics_.evicted_blocks;
  const PrefixNode& node = index_->node(victim);
  const int32_t host_block = host_block_for(node);
  if (host_block == kNoBlock) {
    index_->remove_tree(victim, [this](NodeId id) { forget(id); });
    return;
  }
  const int32_t block = node.block(Tier::kDevice);
  copies_.push_back({Tier::kDevice, block, Tier::kHost, host_block, node.num_tokens});
  events_.moved(victim, node, Tier::kDevice, Tier::kHost);
  index_->move_to_host(victim, host_block);
  pool_.let_go(block);
  ++prefix_statistics_.offloaded_blocks;
}

void KvCacheManager::forget(NodeId id) {
  const PrefixNode& node = index_->node(id);
  events_.removed(id, node);
  for (WindowPool& pool : windows_) pool.forget(id);
  if (node.is_in(Tier::kHost)) host_.give_back(node.block(Tier::kHost));
  if (node.is_in(Tier::kDevice) && !node.has(PrefixNode::kIsUsed))
    pool_.let_go(node.block(Tier::kDevice));
}

void KvCacheManager::forget_cached() {
  copies_.clear();
  if (!index_) return;
  index_->clear([this](NodeId id) { forget(id); });
  host_.forget_pins();
  for (Table& table : tables_) {
    table.may_store = false;
    table.num_stored = table.num_missing = 0;
    table.source.host_node = kNoNode;
  }
}

}  // namespace inflight::kv_cache
