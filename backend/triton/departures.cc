#include "backend/triton/departures.h"

#include <utility>

namespace inflight::triton {

void Departures::listen(uint64_t id_base, Listener listener) {
  std::lock_guard lock(mutex_);
  listeners_[id_base] = std::move(listener);
}

void Departures::forget(uint64_t id_base) {
  std::lock_guard lock(mutex_);
  listeners_.erase(id_base);
}

void Departures::client_left(uint64_t public_id) {
  std::lock_guard lock(mutex_);
  const auto found = listeners_.find(public_id >> 32 << 32);
  if (found != listeners_.end()) found->second(public_id);
}

}  // namespace inflight::triton
