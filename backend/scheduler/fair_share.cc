#include "backend/scheduler/fair_share.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace inflight::scheduler {

TenantId ServiceLedger::enter(std::string_view name) {
  const auto [found, is_new] = by_name_.try_emplace(std::string(name), -1);
  if (is_new) {
    if (free_slots_.empty()) {
      free_slots_.push_back(static_cast<TenantId>(slots_.size()));
      slots_.emplace_back();
    }
    found->second = free_slots_.back();
    free_slots_.pop_back();
    slots_[found->second] = {found->first, virtual_time_, 0};
  }
  Slot& slot = slots_[found->second];
  if (slot.num_requests++ == 0) {
    ++num_active_;
    idle_.erase({slot.served, found->second});
  }
  return found->second;
}

void ServiceLedger::leave(TenantId tenant) {
  Slot& slot = slots_[tenant];
  check_internal(slot.num_requests > 0, "tenant '", slot.name, "' has no request to end");
  if (--slot.num_requests > 0) return;
  idle_.emplace(slot.served, tenant);
  // Nobody is ahead of anybody when all have got what they asked for.
  const bool all_are_idle = --num_active_ == 0;
  while (!idle_.empty() &&
         (all_are_idle || idle_.size() > kMaxIdle || idle_.begin()->first <= virtual_time_))
    forget(idle_.begin()->second);
}

void ServiceLedger::forget(TenantId tenant) {
  idle_.erase({slots_[tenant].served, tenant});
  by_name_.erase(slots_[tenant].name);
  slots_[tenant] = {};
  free_slots_.push_back(tenant);
}

void ServiceLedger::begins_to_wait(TenantId tenant) {
  slots_[tenant].served = std::max(slots_[tenant].served, virtual_time_);
}

void ServiceLedger::starts(TenantId tenant) {
  virtual_time_ = std::max(virtual_time_, slots_[tenant].served);
}

}  // namespace inflight::scheduler
