// Fair share between tenants: who has been served least goes next. A counter of served tokens a
// tenant, after the virtual token counter of Sheng et al., "Fairness in Serving Large Language
// Models", OSDI 2024: prompt tokens weigh 1, generated ones kGeneratedWeight; who comes back after
// having asked for nothing starts where the others stand, so that idleness earns no credit (the
// virtual time of start-time fair queueing, Goyal et al., SIGCOMM 1996). No clock.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace inflight::scheduler {

/// A tenant's place in the ledger, its own as long as it has requests.
using TenantId = int32_t;

class ServiceLedger {
 public:
  static constexpr int64_t kGeneratedWeight = 2;
  /// Tenants without requests that are remembered because they are ahead of the others; beyond
  /// these the one that is least ahead is forgotten.
  static constexpr size_t kMaxIdle = 4096;

  /// A request of the tenant has come. "" is a tenant like others.
  TenantId enter(std::string_view name);
  /// It has ended.
  void leave(TenantId tenant);
  /// The tenant, which had nothing waiting, waits again.
  void begins_to_wait(TenantId tenant);
  /// A request of the tenant, that which was served least of those waiting, starts to run.
  void starts(TenantId tenant);
  /// It was given so many tokens, by weight.
  void charge(TenantId tenant, int64_t weighted_tokens) {
    slots_[tenant].served += weighted_tokens;
  }

  /// Only differences mean something.
  int64_t served(TenantId tenant) const { return slots_[tenant].served; }
  size_t num_remembered() const { return by_name_.size(); }

 private:
  struct Slot {
    std::string name;
    int64_t served = 0;
    int64_t num_requests = 0;
  };
  void forget(TenantId tenant);

  std::vector<Slot> slots_;
  std::vector<TenantId> free_slots_;
  std::unordered_map<std::string, TenantId> by_name_;
  std::set<std::pair<int64_t, TenantId>> idle_;  // by served
  int64_t virtual_time_ = 0;
  int64_t num_active_ = 0;  // tenants with requests
};

}  // namespace inflight::scheduler
