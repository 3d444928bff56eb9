#include "backend/kv_cache/prefix_roots.h"

#include <cassert>

namespace inflight::kv_cache {

uint64_t PrefixRoots::hash_of(const PrefixScope& scope) {
  // FNV-1a (Fowler, Noll, Vo), of whole words where there are such.
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; };
  add(scope.adapter_id);
  add(scope.cache_salt.size());
  for (const char byte : scope.cache_salt) add(static_cast<unsigned char>(byte));
  for (const uint64_t id : scope.extra_ids) add(id);
  // Its upper bits depend on the last words too little.
  hash = (hash ^ (hash >> 32)) * 0x9fb21c651e98df25u;
  return hash ^ (hash >> 32);
}

int32_t PrefixRoots::find(const PrefixScope* scope) const {
  if (scope == nullptr || scope->is_default()) return kDefault;
  const auto found = by_scope_.find(*scope);
  return found == by_scope_.end() ? kNone : found->second;
}

int32_t PrefixRoots::acquire(const PrefixScope* scope) {
  int32_t root = find(scope);
  if (root == kNone) {
    if (free_.empty()) {
      roots_.emplace_back();
      free_.reserve(roots_.capacity());
      root = static_cast<int32_t>(roots_.size()) - 1;
    } else {
      root = free_.back();
      free_.pop_back();
    }
    roots_[root].scope = &by_scope_.emplace(*scope, root).first->first;
    roots_[root].hash = hash_of(*scope);
  }
  ++roots_[root].num_tables;
  return root;
}

void PrefixRoots::release(int32_t root) {
  assert(roots_[root].num_tables > 0);
  --roots_[root].num_tables;
  became_empty(root);
}

void PrefixRoots::became_empty(int32_t root) {
  Root& it = roots_[root];
  if (it.num_tables > 0 || it.first_child != kNoNode || it.scope == nullptr) return;
  by_scope_.erase(by_scope_.find(*it.scope));
  it.scope = nullptr;
  free_.push_back(root);
}

}  // namespace inflight::kv_cache
