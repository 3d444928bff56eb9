// The scopes that the prefix tree knows, each with the first of its blocks. A scope is forgotten
// when nothing of it is cached and no table names it, so that any number of salts may come and go.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "backend/kv_cache/prefix.h"
#include "backend/kv_cache/prefix_nodes.h"

namespace inflight::kv_cache {

class PrefixRoots {
 public:
  static constexpr int32_t kDefault = 0;
  static constexpr int32_t kNone = -1;

  PrefixRoots() : roots_(1) {}

  /// kNone if nothing of the scope is there. No scope is the default one.
  int32_t find(const PrefixScope* scope) const;
  /// Of a table: it stays until release.
  int32_t acquire(const PrefixScope* scope);
  void release(int32_t root);

  NodeId& first_child(int32_t root) { return roots_[root].first_child; }
  NodeId first_child(int32_t root) const { return roots_[root].first_child; }
  /// The root has lost its last child.
  void became_empty(int32_t root);

  static constexpr uint64_t kDefaultHash = 0x2545f4914f6cdd1du;
  /// Where the hashes of its blocks begin: a function of the scope alone.
  uint64_t hash(int32_t root) const { return roots_[root].hash; }

 private:
  struct Hash {
    size_t operator()(const PrefixScope& scope) const { return hash_of(scope); }
  };
  static uint64_t hash_of(const PrefixScope& scope);
  struct Root {
    NodeId first_child = kNoNode;
    int32_t num_tables = 0;
    uint64_t hash = kDefaultHash;
    const PrefixScope* scope = nullptr;  // the key in by_scope_; none: default, or not in use
  };
  std::vector<Root> roots_;
  std::vector<int32_t> free_;
  std::unordered_map<PrefixScope, int32_t, Hash> by_scope_;
};

}  // namespace inflight::kv_cache
