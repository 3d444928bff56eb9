// A plan is immutable: two runners of one engine and one set of weights on two threads give what
// each gives alone. And a step allocates nothing.
#include "backend/plan/plan_runner.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "kernels/core/cpu/parallel.h"
#include "tests/cpp/testing.h"
#include "tests/cpp/tiny_engine.h"

namespace {
std::atomic<int64_t> num_allocations{0};
}  // namespace

void* operator new(size_t size) {
  num_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* data = std::malloc(size)) return data;
  throw std::bad_alloc();
}
// Its own calls malloc, not the replaced operator, where a sanitizer stands in.
void* operator new(size_t size, const std::nothrow_t&) noexcept { return std::malloc(size); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace inflight {
namespace {

using plan::StepInputs;

constexpr int kVocabSize = 13;
constexpr int kBlocks = 4, kBlockElements = 2 * 1 * 8 * 4;  // of one layer

/// Three steps of two sequences: a whole prompt beside half of one, the rest of it beside a
/// generated token, two generated tokens.
struct Batch {
  std::vector<int32_t> ids, positions, slots, starts, lengths, last_rows;
  std::vector<int32_t> tables = {0, 2, 1, 3};

  StepInputs inputs() {
    const auto tokens = static_cast<int64_t>(ids.size());
    const auto view = [](std::vector<int32_t>& values, std::initializer_list<int64_t> shape) {
      return TensorView::dense(values.data(), DType::kInt32, shape);
    };
    return {static_cast<int>(tokens),  2,
            view(ids, {tokens}),       view(positions, {tokens}),
            view(positions, {tokens}),  // no rope scaling: the lengths change nothing
            view(slots, {tokens}),     view(starts, {3}),
            view(lengths, {2}),        view(tables, {2, 2}),
            view(last_rows, {2}),      {}};
  }
};

std::vector<Batch> batches(int salt) {
  std::vector<Batch> steps;
  int done[2] = {0, 0};
  const int counts[3][2] = {{9, 5}, {1, 4}, {1, 1}};
  for (const auto& count : counts) {
    Batch& step = steps.emplace_back();
    step.starts = {0};
    for (int sequence = 0; sequence < 2; ++sequence) {
      for (int i = 0; i < count[sequence]; ++i) {
        const int position = done[sequence]++;
        step.ids.push_back((position * 7 + sequence * 3 + salt) % kVocabSize);
        step.positions.push_back(position);
        step.slots.push_back(step.tables[2 * sequence + position / 8] * 8 + position % 8);
      }
      step.starts.push_back(static_cast<int32_t>(step.ids.size()));
      step.lengths.push_back(done[sequence]);
      step.last_rows.push_back(step.starts.back() - 1);
    }
  }
  return steps;
}

struct State {
  explicit State(const plan::EngineFile& engine, const plan::Weights& weights, int num_threads)
      : cache(kBlocks * kBlockElements, 0.0f),
        pool(num_threads),
        context({}, &pool),
        runner(engine, 0, weights, context, engine.limits,
               {TensorView::dense(cache.data(), DType::kFloat32, {kBlocks, 2, 1, 8, 4})}) {}

  void run(std::vector<Batch>& steps, std::vector<float>& logits) {
    logits.clear();
    for (Batch& step : steps) {
      const TensorView out = runner.run(step.inputs());
      logits.insert(logits.end(), out.as<float>(), out.as<float>() + out.num_elements());
    }
  }

  std::vector<float> cache;
  cpu::ThreadPool pool;
  DeviceContext context;
  plan::PlanRunner runner;
};

void two_runners_of_one_plan(const plan::EngineFile& engine, const plan::Weights& weights) {
  std::vector<Batch> steps[2] = {batches(1), batches(5)};
  std::vector<float> alone[2], together[2];
  for (int i = 0; i < 2; ++i) State(engine, weights, 1).run(steps[i], alone[i]);
  EXPECT_EQ(alone[0].size(), 3u * 2 * kVocabSize);
  EXPECT(alone[0] != alone[1]);

  State states[2] = {State(engine, weights, 1), State(engine, weights, 2)};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        states[i].run(steps[i], together[i]);
        if (together[i] != alone[i]) return;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT(together[0] == alone[0]);
  EXPECT(together[1] == alone[1]);
}

void a_step_allocates_nothing(const plan::EngineFile& engine, const plan::Weights& weights) {
  State state(engine, weights, 2);
  std::vector<Batch> steps = batches(3);
  std::vector<StepInputs> inputs;
  for (Batch& step : steps) inputs.push_back(step.inputs());
  for (const StepInputs& step : inputs) state.runner.run(step);
  const int64_t before = num_allocations.load();
  for (int round = 0; round < 50; ++round) {
    for (const StepInputs& step : inputs) state.runner.run(step);
  }
  EXPECT_EQ(num_allocations.load() - before, 0);
}

void limits(const plan::EngineFile& engine, const plan::Weights& weights) {
  const DeviceContext context({}, nullptr);
  plan::StepLimits larger = engine.limits;
  larger.max_num_tokens = 17;
  EXPECT_RAISES(plan::PlanRunner(engine, 0, weights, context, larger, {}),
                "max_num_tokens must be from 1 to 16");
  EXPECT_RAISES(plan::PlanRunner(engine, 0, weights, context, engine.limits, {}),
                "got the cache of 0 layers, the engine has 1");
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  const testing::TinyEngine directory;
  const plan::EngineFile engine = plan::load_engine_file(directory.path());
  cpu::ThreadPool pool(2);
  const plan::Weights weights(engine, 0, {}, pool);
  return testing::run_cases(
      {{"two_runners_of_one_plan", [&] { two_runners_of_one_plan(engine, weights); }},
       {"a_step_allocates_nothing", [&] { a_step_allocates_nothing(engine, weights); }},
       {"limits", [&] { limits(engine, weights); }}},
      argc, argv);
}
