// What Python cannot see of schedule: memory used again from step to step leaves no trace in the
// answer. The policies are tested in tests/scheduler.
#include "backend/scheduler/schedule.h"

#include <algorithm>
#include <random>
#include <vector>

#include "tests/cpp/testing.h"

namespace inflight::scheduler {
namespace {

std::vector<SequenceView> random_views(std::mt19937& random, int count, bool running) {
  std::vector<SequenceView> views(count);
  for (SequenceView& view : views) {
    view.id = random();
    view.priority = static_cast<int32_t>(random() % 3);
    view.prompt_len = 1 + static_cast<int32_t>(random() % 60);
    view.max_total_len = view.prompt_len + 1 + static_cast<int32_t>(random() % 40);
    if (running) view.num_computed = static_cast<int32_t>(random() % view.max_total_len);
    view.num_blocks = (view.num_computed + 7) / 8;
  }
  if (!running)
    std::stable_sort(views.begin(), views.end(),
                     [](const auto& a, const auto& b) { return a.priority > b.priority; });
  return views;
}

void reused_memory_leaves_no_trace() {
  std::mt19937 random(1);
  Step reused;
  Scratch scratch;
  int num_empty = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto running = random_views(random, static_cast<int>(random() % 9), true);
    const auto waiting = random_views(random, static_cast<int>(random() % 9), false);
    const kv_cache::Geometry geometry(8);
    // Those that run can become as long as they may: what was admitted fits.
    auto free_blocks = static_cast<int32_t>(random() % 200);
    for (const SequenceView& sequence : running)
      free_blocks += sequence.blocks_to(sequence.max_total_len, geometry);
    const CacheView cache{geometry, 200 + free_blocks, free_blocks};
    const Limits limits{12, 12 + static_cast<int32_t>(random() % 80), random() % 2 == 0};
    schedule(reused, scratch, {running, waiting, cache}, limits);
    Step fresh;
    Scratch fresh_scratch;
    schedule(fresh, fresh_scratch, {running, waiting, cache}, limits);
    EXPECT_EQ(reused, fresh);
    num_empty += fresh.is_empty();
  }
  EXPECT(num_empty < 500);
}

}  // namespace
}  // namespace inflight::scheduler

int main(int argc, char** argv) {
  using namespace inflight::scheduler;
  return inflight::testing::run_cases(
      {
          {"reused_memory_leaves_no_trace", reused_memory_leaves_no_trace},
      },
      argc, argv);
}
