// Under max_utilization: who gives its blocks up when those that run need more than there are.
//
// One that is preempted goes back to the front of the queue of its priority and runs again once
// there is room, so it loses time, not its turn. Nobody starves:
//  - the one of the largest priority that came first is never chosen, so it runs to its end;
//  - nobody is preempted more than max_preemptions times. Those protected so fit into the pool
//    together at their greatest length (capacity.h), and the blocks that they lack are held by
//    others, who can be preempted: so they too run to their end.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/scheduler/limits.h"
#include "backend/scheduler/view.h"

namespace inflight::scheduler {

/// Indices into `view.running` of those to preempt before the next step, so that each that stays
/// can run at least a token: the lowest priority first, of equals the one that came last. Blocks
/// that are leaving count as there, so that nobody is preempted for a need that ends by itself.
/// Empty unless the policy is max_utilization.
///
/// What a sequence holds may be shared: when the chosen ones have been released, ask again.
void choose_preempted(std::vector<int32_t>& chosen, const EngineView& view, const Limits& limits);

}  // namespace inflight::scheduler
