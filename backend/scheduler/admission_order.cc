#include "backend/scheduler/admission_order.h"

namespace inflight::scheduler {

int32_t first_by_hits(std::span<const SequenceView> candidates) {
  int32_t best = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(candidates.size()); ++i) {
    const SequenceView& candidate = candidates[i];
    if (candidate.priority != candidates[0].priority) break;
    if (candidate.num_computed > candidates[best].num_computed) best = i;
    if (candidate.num_passes >= kMaxPasses || candidate.num_preemptions > 0) break;
  }
  return best;
}

}  // namespace inflight::scheduler
