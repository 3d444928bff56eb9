#include "backend/scheduler/preemption.h"

#include <algorithm>

#include "backend/scheduler/capacity.h"

namespace inflight::scheduler {
namespace {

/// Blocks that it must get to run at all in the next step.
int32_t demand(const SequenceView& sequence, const EngineView& view, const Limits& limits) {
  if (sequence.is_complete()) return 0;
  const bool runs_whole =
      !sequence.is_generating() && !sequence.may_be_cut(limits.enable_chunked_context);
  return sequence.blocks_to(runs_whole ? sequence.prompt_len : sequence.num_computed + 1,
                            view.cache.geometry);
}

}  // namespace

void choose_preempted(std::vector<int32_t>& chosen, const EngineView& view, const Limits& limits) {
  chosen.clear();
  if (limits.capacity_policy != CapacityPolicy::kMaxUtilization) return;
  int64_t needed = 0;
  int64_t available = view.cache.available_blocks() + view.cache.leaving_blocks;
  for (const SequenceView& sequence : view.running) {
    needed += demand(sequence, view, limits);
    // It ends with the step in flight.
    if (sequence.is_complete()) available += sequence.num_blocks;
  }
  if (needed <= available) return;

  const auto num_running = static_cast<int32_t>(view.running.size());
  int32_t num_staying = 0;  // and not complete
  for (int32_t i = 0; i < num_running; ++i) {
    if (view.running[i].is_complete()) continue;
    ++num_staying;
    if (!is_protected(view.running[i], limits)) chosen.push_back(i);
  }
  // A heap with the first to go on top; those taken off gather behind it.
  const auto stays_before = [&](int32_t a, int32_t b) {
    const SequenceView &first = view.running[a], &second = view.running[b];
    return first.priority != second.priority ? first.priority > second.priority
                                             : first.id < second.id;
  };
  std::ranges::make_heap(chosen, stays_before);
  auto heap_end = chosen.end();
  while (needed > available && heap_end != chosen.begin() && num_staying > 1) {
    std::pop_heap(chosen.begin(), heap_end--, stays_before);
    needed -= demand(view.running[*heap_end], view, limits);
    available += view.running[*heap_end].num_blocks;
    --num_staying;
  }
  chosen.erase(chosen.begin(), heap_end);
  std::ranges::reverse(chosen);
}

}  // namespace inflight::scheduler
