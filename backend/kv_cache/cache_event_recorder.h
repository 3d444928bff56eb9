// Turns what happens to nodes of the prefix tree into events, which know hashes instead of nodes.
// Only full blocks have events: nothing can follow others. Costs nothing without a log.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/kv_cache/cache_events.h"
#include "backend/kv_cache/prefix_nodes.h"
#include "backend/kv_cache/prefix_roots.h"

namespace inflight::kv_cache {

class CacheEventRecorder {
 public:
  /// `log`, if any, outlives the recorder.
  CacheEventRecorder(CacheEventLog* log, int32_t tokens_per_block, int32_t num_blocks,
                     int32_t num_host_blocks)
      : log_(log), tokens_per_block_(tokens_per_block) {
    if (log_ == nullptr) return;
    hashes_.resize(size_t{0} + num_blocks + num_host_blocks);
    log_->created(num_blocks, num_host_blocks);
  }

  bool are_heard() const { return log_ != nullptr; }

  /// The block behind `parent` (or ~root).
  void stored(NodeId id, NodeId parent, const PrefixRoots& roots, uint64_t hash,
              std::span<const int32_t> tokens, int32_t priority) {
    if (log_ == nullptr || static_cast<int32_t>(tokens.size()) < tokens_per_block_) return;
    hashes_[id] = hash;
    std::optional<uint64_t> before;
    if (parent >= 0)
      before = hashes_[parent];
    else if (~parent != PrefixRoots::kDefault)
      before = roots.hash(~parent);
    log_->stored(before, {hash, {tokens.begin(), tokens.end()}, Tier::kDevice, priority});
  }
  void removed(NodeId id, const PrefixNode& node) {
    if (has_events(node)) log_->removed(hashes_[id]);
  }
  void moved(NodeId id, const PrefixNode& node, Tier from, Tier to) {
    if (has_events(node)) log_->moved(hashes_[id], from, to);
  }

 private:
  bool has_events(const PrefixNode& node) const {
    return log_ != nullptr && node.num_tokens == tokens_per_block_;
  }

  CacheEventLog* const log_;
  const int32_t tokens_per_block_;
  std::vector<uint64_t> hashes_;  // by node
};

}  // namespace inflight::kv_cache
