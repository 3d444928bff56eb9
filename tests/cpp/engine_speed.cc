// Microseconds of host work per step, everything but the model: schedule, reserve, build, commit,
// release, publish, while every sequence generates. Prints a line a case; fails far above the goal.
//
// Usage: test_engine_speed [steps]
#include <cstdlib>
#include <string>

#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

/// Answers at once with any token, once the gate is open.
class InstantExecutor : public executor::ModelExecutor {
 public:
  InstantExecutor(Gate& gate, int depth) : gate_(gate), depth_(depth), results_(depth) {}
  int max_steps_in_flight() const override { return depth_; }
  Staging& staging() override {
    staging_.reset();
    return staging_;
  }
  void launch(const plan::StepInputs&, std::span<const decoding::SampleRow> rows,
              std::span<const decoding::LogitsRows>,
              std::span<const kv_cache::BlockCopy>) override {
    results_[num_launched_++ % depth_].assign(rows.size(), decoding::SampledToken{.id = 1});
  }
  std::span<const float> logits() const override { return {}; }
  void make_copies(std::span<const kv_cache::BlockCopy>) override {}
  void read_block(kv_cache::Tier, int32_t, std::span<std::byte>) override {}
  void write_block(kv_cache::Tier, int32_t, std::span<const std::byte>) override {}
  std::span<const decoding::SampledToken> wait() override {
    gate_.pass();
    return results_[num_waited_++ % depth_];
  }

 private:
  Gate& gate_;
  const int depth_;
  Staging staging_{{}, size_t{1} << 20};
  int num_launched_ = 0;
  int num_waited_ = 0;
  std::vector<std::vector<decoding::SampledToken>> results_;  // in turns
};

void measure(int depth, int num_sequences, bool streaming, int num_steps, double limit_us) {
  constexpr int kPromptLen = 128;
  EngineInfo info;
  info.vocab_size = kVocabSize;
  info.max_batch_size = num_sequences;
  info.max_num_tokens = 8192;
  info.max_seq_len = kPromptLen + num_steps + 1;
  info.max_prompt_len = info.max_seq_len - 1;
  info.tokens_per_block = 32;
  info.num_blocks = int64_t{num_sequences} * (info.max_seq_len / info.tokens_per_block + 1);
  Gate gate;  // until all are there, so that every step but a few has the whole batch
  gate.close();
  Engine engine(info, {}, std::make_unique<InstantExecutor>(gate, depth));
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < num_sequences; ++i) {
    auto request = std::make_shared<Request>();
    request->input_ids = prompt_of(kPromptLen, i);
    request->stop.max_new_tokens = num_steps;
    request->stop.end_ids = {2, 3};
    request->streaming = streaming;
    answers.push_back(std::make_unique<Answer>());
    engine.submit(request, answers.back()->callback());
  }
  gate.open();
  for (const auto& answer : answers) answer->wait();
  const EngineStats stats = engine.stats();
  const double microseconds = 1e6 * stats.host_seconds / static_cast<double>(stats.iteration);
  std::printf("%d in flight, %3d sequences, %s: %6.1f us of host work a step (%lld steps)\n", depth,
              num_sequences, streaming ? "streaming" : "one answer", microseconds,
              static_cast<long long>(stats.iteration));
  EXPECT(microseconds < limit_us);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  const int num_steps = argc > 1 ? std::stoi(argv[1]) : 1000;
  for (const int depth : {1, 2}) {
    for (const bool streaming : {false, true}) {
      measure(depth, 1, streaming, num_steps, 200);
      measure(depth, 64, streaming, num_steps, 400);
      measure(depth, 256, streaming, num_steps, 1000);
    }
  }
  return num_failures == 0 ? 0 : 1;
}
