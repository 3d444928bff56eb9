#include "backend/scheduler/window_claims.h"

#include "kernels/core/check.h"

namespace inflight::scheduler {

WindowClaims::WindowClaims(std::span<const WindowGroupView> groups,
                           const kv_cache::Geometry& geometry, const Limits& limits)
    : groups_(groups), geometry_(geometry) {
  check_internal(groups.size() <= kMaxGroups, groups.size(), " groups of layers with windows");
  for (size_t g = 0; g < groups.size(); ++g)
    demands_[g].emplace(geometry, groups[g].window, limits.max_num_tokens,
                        limits.max_steps_in_flight);
}

void WindowClaims::add(int32_t max_total_len) {
  for (size_t g = 0; g < groups_.size(); ++g) demands_[g]->add(max_total_len);
}

bool WindowClaims::fit() const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (demands_[g]->num_blocks() + groups_[g].leaving_blocks > groups_[g].num_blocks) return false;
  }
  return true;
}

void WindowClaims::check_fit(int32_t max_total_len) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const int64_t needed = demands_[g]->num_blocks();
    check(needed <= groups_[g].num_blocks, "prompt and output of ", max_total_len, " tokens need ",
          needed, " KV cache blocks of ", geometry_.tokens_per_block(),
          " tokens in layers with a window of ", groups_[g].window.window, " tokens, there are ",
          groups_[g].num_blocks);
  }
}

}  // namespace inflight::scheduler
