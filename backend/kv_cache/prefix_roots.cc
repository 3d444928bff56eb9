#include "backend/kv_cache/prefix_roots.h"

#include <cassert>
#include <functional>
#include <string_view>

namespace inflight::kv_cache {

size_t PrefixRoots::Hash::operator()(const PrefixScope& scope) const {
  const auto* extra = reinterpret_cast<const char*>(scope.extra_ids.data());
  const std::hash<std::string_view> hash;
  size_t result = std::hash<uint64_t>()(scope.adapter_id);
  result = result * 0x9e3779b97f4a7c15u + hash(scope.cache_salt);
  return result * 0x9e3779b97f4a7c15u +
         hash({extra, scope.extra_ids.size() * sizeof(scope.extra_ids[0])});
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
