#include "backend/scheduler/window_claims.h"

#include "kernels/core/check.h"

namespace inflight::scheduler {

WindowClaims::WindowClaims(std::span<const WindowGroupView> groups,
                           const kv_cache::Geometry& geometry, const Limits& limits)
    : geometry_(geometry), num_groups_(groups.size()) {
  check_internal(groups.size() <= kMaxGroups, groups.size(), " groups of layers with windows");
  for (size_t g = 0; g < groups.size(); ++g)
    demands_[g].emplace(geometry, groups[g].window, limits.max_num_tokens,
                        limits.max_steps_in_flight);
}

void WindowClaims::add(int32_t max_total_len, int64_t count) {
  for (size_t g = 0; g < num_groups_; ++g) demands_[g]->add(max_total_len, count);
}

bool WindowClaims::fit(std::span<const WindowGroupView> groups) const {
  for (size_t g = 0; g < num_groups_; ++g) {
    if (demands_[g]->num_blocks() + groups[g].leaving_blocks > groups[g].num_blocks) return false;
  }
  return true;
}

void WindowClaims::check_fit(std::span<const WindowGroupView> groups, int32_t max_total_len) const {
  for (size_t g = 0; g < num_groups_; ++g) {
    const int64_t needed = demands_[g]->num_blocks();
    check(needed <= groups[g].num_blocks, "prompt and output of ", max_total_len, " tokens need ",
          needed, " KV cache blocks of ", geometry_.tokens_per_block(),
          " tokens in layers with a window of ", groups[g].window.window, " tokens, there are ",
          groups[g].num_blocks);
  }
}

}  // namespace inflight::scheduler
