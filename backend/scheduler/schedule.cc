#include "backend/scheduler/schedule.h"

#include "backend/scheduler/capacity.h"
#include "backend/scheduler/token_budget.h"
#include "kernels/core/check.h"

namespace inflight::scheduler {

void schedule(Step& step, Scratch& scratch, const EngineView& view, const Limits& limits) {
  schedule_admitted(step, scratch, view, num_admissible(view, limits), limits);
}

void schedule_admitted(Step& step, Scratch& scratch, const EngineView& view, int32_t num_admissible,
                       const Limits& limits) {
  for (int32_t i = 1; i < num_admissible; ++i)
    check_internal(view.waiting[i - 1].priority >= view.waiting[i].priority, "sequence ",
                   view.waiting[i].id, " waits behind one of lower priority");
  assign_tokens(step, scratch, view, num_admissible, limits);
}

void check_can_run(int32_t prompt_len, int32_t max_total_len, const CacheView& cache,
                   const Limits& limits) {
  check(prompt_len >= 1, "prompt of ", prompt_len, " tokens: at least 1 is needed");
  check(max_total_len > prompt_len, "prompt and output of at most ", max_total_len,
        " tokens leave no room for output after a prompt of ", prompt_len);
  check_fits_budget(prompt_len, limits);
  check_fits_pool(max_total_len, cache, limits);
}

}  // namespace inflight::scheduler
