// What Python cannot see of schedule: memory used again from step to step leaves no trace in the
// answer; and the bound on a step's time, of a fit that is given. The policies are tested in
// tests/scheduler.
#include "backend/scheduler/schedule.h"

#include <algorithm>
#include <random>
#include <utility>
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

/// What the bound leaves beside generation is given to the first prompt, to a border; where it
/// leaves nothing, as many tokens as there are to the next one.
void prompts_get_the_time_that_is_left() {
  const SequenceView generating{
      .id = 1, .prompt_len = 8, .num_computed = 19, .max_total_len = 60, .num_blocks = 5};
  SequenceView reading{
      .id = 2, .prompt_len = 100, .num_computed = 6, .max_total_len = 120, .num_blocks = 2};
  std::vector<SequenceView> running{generating, reading, reading};
  running[2].id = 3;
  const Limits limits{
      .max_batch_size = 4, .max_num_tokens = 64, .max_time_per_output_token_ms = 10.0};
  EngineView view{.running = running, .cache = {kv_cache::Geometry(4), 200, 100}};
  view.step_time = {.ms_per_step = 1.0, .ms_per_token = 0.5, .most_prompt_tokens = 64};
  // Nine tenths of 10 ms, less 1.5 and what 20 keys take, at half a millisecond a token.
  const std::vector<std::pair<double, int32_t>> cases = {{0.0, 14}, {0.2, 6}, {1.0, 2}};
  for (const auto& [ms_per_key, num_tokens] : cases) {
    view.step_time.ms_per_generation_key = ms_per_key;
    Step step;
    Scratch scratch;
    schedule(step, scratch, view, limits);
    EXPECT_EQ(step.sequences.size(), 2u);
    EXPECT_EQ(step.sequences.back().id, 2u);
    EXPECT_EQ(step.sequences.back().num_tokens, num_tokens);
  }
}

}  // namespace
}  // namespace inflight::scheduler

int main(int argc, char** argv) {
  using namespace inflight::scheduler;
  return inflight::testing::run_cases(
      {
          {"reused_memory_leaves_no_trace", reused_memory_leaves_no_trace},
          {"prompts_get_the_time_that_is_left", prompts_get_the_time_that_is_left},
      },
      argc, argv);
}
