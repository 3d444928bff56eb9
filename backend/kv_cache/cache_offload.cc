// The part of KvCacheManager that has to do with the host tier: what goes there, what comes back.
#include "backend/kv_cache/kv_cache_manager.h"

namespace inflight::kv_cache {
namespace {

// Who gives blocks less than the default asks for them not to be kept; TensorRT-LLM's default, too.
constexpr int32_t kMinHostPriority = 30;

}  // namespace

bool KvCacheManager::is_worth_onboarding(int32_t num_blocks, int32_t num_tokens,
                                         Onboarding onboarding) const {
  return options_.onboard_blocks &&
         (onboarding == Onboarding::kAlways ||
          is_onboarding_cheaper(num_blocks, options_.block_bytes, num_tokens, costs_));
}

/// A free block for an evicted node, if need be that of one that matters less; kNoBlock: the node
/// matters least.
int32_t KvCacheManager::host_block_for(const PrefixNode& node) {
  if (host_.num_blocks() == 0 || node.priority < kMinHostPriority) return kNoBlock;
  if (host_.num_free() == 0) {
    const NodeId victim = index_->next_host_victim();
    if (victim == kNoNode || index_->node(victim).priority > node.priority) return kNoBlock;
    forget(victim);
    index_->remove(victim);
  }
  return host_.take();
}

void KvCacheManager::bring_ahead(const TokenView& tokens, const PrefixScope* scope,
                                 int32_t max_copies) {
  if (host_.num_blocks() == 0) return;
  // A table for the time of the call: what is found can neither be evicted nor forgotten, and is
  // the newest after it.
  const TableId id = new_table();
  begin(id, {.tokens = tokens, .scope = scope});
  const int64_t before = prefix_statistics_.onboarded_blocks;
  bring_back(tables_[id], max_copies);
  prefix_statistics_.host_hit_tokens +=
      (prefix_statistics_.onboarded_blocks - before) * geometry_.tokens_per_block();
  release(id);
}

void KvCacheManager::drop_host_block(NodeId id) {
  const PrefixNode& node = index_->node(id);
  if (!node.is_in(Tier::kHost)) return;
  events_.moved(id, node, Tier::kHost, Tier::kDevice);
  host_.give_back(node.block(Tier::kHost));
  index_->drop_host_block(id);
}

void KvCacheManager::pin_host_node(NodeId id) {
  if (host_.pin(id)) index_->use_node(id);
}

void KvCacheManager::unpin_host_node(NodeId id) {
  // On the device its block's count says whether it is used.
  if (host_.unpin(id) && !index_->node(id).is_in(Tier::kDevice)) index_->unuse_node(id);
}

}  // namespace inflight::kv_cache
