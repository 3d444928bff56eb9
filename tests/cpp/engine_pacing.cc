// While sequences generate, a long prompt arrives: with a bound on the time per output token it is
// read in pieces that leave the others' tokens in time. The device's time is told by the script, as
// a model of 8 billion parameters would take on a large GPU, and learnt by the engine.
#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

constexpr int kNumGenerating = 32;
constexpr int kLongPrompt = 32'000;
constexpr double kBoundMs = 15.0;

/// Not linear: as long as a step's rows are few, reading the weights takes longer than they do. And
/// some steps take longer than they should.
double device_ms(const plan::StepInputs& inputs, int number) {
  double keys = 0, pairs = 0;
  const auto* starts = inputs.query_starts.as<int32_t>();
  const auto* lengths = inputs.kv_lengths.as<int32_t>();
  for (int b = 0; b < inputs.num_sequences; ++b) {
    const double rows = starts[b + 1] - starts[b];
    if (rows == 1)
      keys += lengths[b];
    else
      pairs += rows * (lengths[b] - rows / 2);
  }
  const double noise = 1.0 + 0.05 * ((number * 7919) % 13 - 6) / 6.0;
  return noise * (0.5 + std::max(3.5, 0.02 * inputs.num_tokens) + 3e-5 * keys + 1.3e-6 * pairs);
}

struct Outcome {
  double slowest_ms = 0;     // of steps with all the generating sequences
  double to_first_ms = 0;    // token of the long prompt, from its first step on
  int num_steps_beside = 0;  // that read the prompt beside them
};

Outcome run(double bound_ms) {
  EngineInfo info = small_info(64);
  info.max_num_tokens = 8192;
  info.max_seq_len = 40'000;
  info.max_prompt_len = 39'999;
  info.tokens_per_block = 32;
  info.num_blocks = 4096;
  EngineConfig config;
  config.max_time_per_output_token_ms = bound_ms;
  Fixture fixture(info, config);
  Outcome outcome;
  std::atomic<bool> long_one_reads = false, is_through = false;
  int number = 0;
  fixture.script->step_ms = [&](const plan::StepInputs& inputs) {
    const double ms = device_ms(inputs, number++);
    int longest = 0;
    for (int b = 0; b < inputs.num_sequences; ++b)
      longest = std::max(
          longest, inputs.query_starts.as<int32_t>()[b + 1] - inputs.query_starts.as<int32_t>()[b]);
    if (inputs.num_sequences == kNumGenerating + 1 && longest > 1) {
      outcome.slowest_ms = std::max(outcome.slowest_ms, ms);
      outcome.to_first_ms += ms;
      ++outcome.num_steps_beside;
    }
    return ms;
  };
  std::vector<Answer> answers(kNumGenerating + 1);
  fixture.script->gate.close();
  for (int i = 0; i < kNumGenerating; ++i)
    fixture.submit(answers[i], prompt_of(100 + 10 * i, i), 600, true);
  fixture.script->gate.open();
  // Long enough that the engine knows what a step of generation takes.
  for (int i = 0; i < kNumGenerating; ++i) answers[i].wait_for_tokens(40);
  fixture.submit(answers[kNumGenerating], prompt_of(kLongPrompt, 99), 4);
  answers[kNumGenerating].wait();
  for (int i = 0; i < kNumGenerating; ++i) EXPECT_EQ(answers[i].num_finals(), 0);
  EXPECT_EQ(answers[kNumGenerating].tokens().size(), 4u);
  fixture.engine->shut_down();
  return outcome;
}

void a_long_prompt_leaves_the_others_in_time() {
  const Outcome bounded = run(kBoundMs);
  const Outcome unbounded = run(0);
  std::printf(
      "bound %.0f ms: slowest token %.1f ms, the prompt in %d steps, %.0f ms; without %.1f "
      "ms, %d steps, %.0f ms\n",
      kBoundMs, bounded.slowest_ms, bounded.num_steps_beside, bounded.to_first_ms,
      unbounded.slowest_ms, unbounded.num_steps_beside, unbounded.to_first_ms);
  EXPECT(bounded.num_steps_beside >= 10);
  EXPECT(bounded.slowest_ms <= 1.5 * kBoundMs);
  EXPECT(unbounded.slowest_ms > 5 * kBoundMs);  // else there would be nothing to bound
  // The time that the bound leaves is used: reading costs little more than at once.
  EXPECT(bounded.to_first_ms < 2.5 * unbounded.to_first_ms);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"a_long_prompt_leaves_the_others_in_time", a_long_prompt_leaves_the_others_in_time}}, argc,
      argv);
}
