// Blocks that leave a tiny pool for the host tier, come back, or go to another engine: over the
// scripted model, which finds every token of a sequence in its cache or fails, and with two steps
// in flight makes each step's copies when it runs, not when it is launched.
#include <cmath>
#include <memory>
#include <random>

#include "backend/kv_cache/onboarding.h"
#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

EngineInfo tiered_info(int num_blocks, int num_host_blocks) {
  EngineInfo info = small_info();
  info.enable_kv_cache_reuse = true;
  info.num_blocks = num_blocks;
  info.num_host_blocks = num_host_blocks;
  info.block_bytes = info.tokens_per_block * static_cast<int64_t>(sizeof(int32_t));
  info.cache_layout = "scripted";
  return info;
}

/// Turns of a few conversations, each longer than the last: what it begins with was evicted.
void conversations_go_through_the_host() {
  Fixture fixture(tiered_info(18, 30));
  std::mt19937 random(3);
  std::vector<std::vector<int32_t>> conversations;
  for (int i = 0; i < 5; ++i) conversations.push_back(prompt_of(8 + i, i));
  for (int turn = 0; turn < 5; ++turn) {
    std::vector<std::unique_ptr<Answer>> answers;
    for (auto& conversation : conversations) {
      const int more = static_cast<int>(random() % 4);
      for (int i = 0; i < more; ++i)
        conversation.push_back(static_cast<int32_t>(random() % kVocabSize));
      answers.push_back(std::make_unique<Answer>());
      fixture.submit(*answers.back(), conversation, 5);
    }
    for (size_t i = 0; i < answers.size(); ++i) {
      EXPECT(answers[i]->wait().finish_reason == FinishReason::kLength);
      EXPECT(answers[i]->tokens() == expected_tokens(conversations[i], 5));
      for (int32_t token : answers[i]->tokens()) conversations[i].push_back(token);
    }
  }
  fixture.expect_all_free();
  const EngineStats stats = fixture.engine->stats();
  EXPECT(stats.offloaded_blocks > 0);
  EXPECT(stats.onboarded_blocks > 0);
  EXPECT(stats.prefix_host_hit_tokens > 0);
  EXPECT_EQ(stats.copied_to_host_bytes, stats.offloaded_blocks * 16);
  EXPECT_EQ(stats.copied_from_host_bytes, stats.onboarded_blocks * 16);
  EXPECT(stats.cached_host_blocks > 0 && stats.cached_host_blocks <= stats.max_host_blocks);
}

/// A prompt of 20 blocks in the host comes while others generate, for whom 4 copies a step go
/// unnoticed; then again while nobody does.
void a_hit_in_the_host_leaves_the_others_in_time() {
  EngineInfo info = tiered_info(100, 200);
  info.max_seq_len = 400;
  info.max_prompt_len = 399;
  info.max_num_tokens = 400;
  info.onboard_bytes_per_second = 5 * 16 / 1e-3;  // five blocks in a millisecond
  Fixture fixture(info);
  fixture.script->step_ms = [](const plan::StepInputs& inputs) {
    return 1.0 + (inputs.num_tokens - inputs.num_sequences);
  };
  const std::vector<int32_t> prompt = prompt_of(81, 1), other = prompt_of(390, 2);
  const auto ask = [&](const std::vector<int32_t>& what) {
    Answer answer;
    fixture.submit(answer, what, 1);
    answer.wait();
    EXPECT(answer.tokens() == expected_tokens(what, 1));
  };
  ask(prompt);
  ask(other);  // takes the pool
  EXPECT(fixture.engine->stats().cached_host_blocks >= 19);
  const int64_t onboarded = fixture.engine->stats().onboarded_blocks;

  Answer generating[2], hit;
  fixture.script->gate.close();
  for (int i = 0; i < 2; ++i) fixture.submit(generating[i], prompt_of(6, 3 + i), 80, true);
  fixture.script->gate.let_pass(15);
  for (Answer& answer : generating) answer.wait_for_tokens(10);
  fixture.submit(hit, prompt, 1);
  fixture.script->gate.open();
  hit.wait();
  EXPECT(hit.tokens() == expected_tokens(prompt, 1));
  for (int i = 0; i < 2; ++i) {
    generating[i].wait();
    EXPECT(generating[i].tokens() == expected_tokens(prompt_of(6, 3 + i), 80));
  }
  EXPECT(fixture.engine->stats().onboarded_blocks - onboarded >= 19);
  EXPECT(fixture.engine->stats().prefix_host_hit_tokens >= 19 * 4);
  ask(other);
  ask(prompt);
  fixture.expect_all_free();
  fixture.engine->shut_down();
  int most_beside = 0, most_alone = 0, num_with_all = 0;
  for (const auto& [num_sequences, num_copies] : fixture.script->steps) {
    int& most = num_sequences > 1 ? most_beside : most_alone;
    most = std::max(most, num_copies);
    num_with_all += num_sequences == 3 ? 1 : 0;
  }
  EXPECT_EQ(num_with_all, 1);    // the others were generating still when it came
  EXPECT(most_beside <= 4 + 3);  // a block that makes way for the last, and for each that generates
  EXPECT(most_alone >= 19);
}

/// A step fails at launch after its copies were asked for: what comes later is right all the same.
void a_failed_step_leaves_no_trace() {
  Fixture fixture(tiered_info(12, 12));
  for (int i = 0; i < 8; ++i) {
    Answer failing, answer;
    fixture.script->fail_at_step = fixture.script->num_steps + 1;
    fixture.submit(failing, prompt_of(20, i % 3), 6);
    EXPECT(failing.wait().finish_reason == FinishReason::kError);
    fixture.script->fail_at_step = -1;
    fixture.submit(answer, prompt_of(22, i % 3), 6);
    EXPECT(answer.wait().finish_reason == FinishReason::kLength);
    EXPECT(answer.tokens() == expected_tokens(prompt_of(22, i % 3), 6));
  }
  fixture.expect_all_free();
}

/// Also while both engines run other requests.
void blocks_go_from_one_engine_to_another() {
  Fixture reader(tiered_info(40, 0)), writer(tiered_info(40, 0));
  Answer reading, writing;
  const auto reader_id = reader.submit(reading, prompt_of(9, 5), 50);
  const auto writer_id = writer.submit(writing, prompt_of(9, 6), 50);
  std::vector<int32_t> prompt = prompt_of(21);
  Answer first, rest;
  reader.submit(first, prompt, 1);
  first.wait();
  prompt.push_back(first.tokens().at(0));
  const executor::ExportedPrefix prefix = reader.engine->export_prefix(prompt);
  EXPECT_EQ(prefix.token_ids.size(), 21u);
  EXPECT_EQ(prefix.blocks.size(), 6u * 16);
  writer.engine->import_prefix(prefix);
  writer.submit(rest, prompt, 5);
  rest.wait();
  EXPECT(rest.tokens() == expected_tokens(prompt, 5));
  EXPECT_EQ(writer.engine->stats().prefix_hit_tokens, int64_t{21});
  reader.engine->cancel(reader_id);
  writer.engine->cancel(writer_id);
  reading.wait();
  writing.wait();
  executor::ExportedPrefix other = prefix;
  other.layout = "another";
  EXPECT_RAISES(writer.engine->import_prefix(other), "the blocks are \"another\"");
  reader.expect_all_free();
  writer.expect_all_free();
  writer.engine->shut_down();
  EXPECT_RAISES(writer.engine->export_prefix(prompt), "shutting down");
}

void cases_of_costs() {
  using kv_cache::is_onboarding_cheaper;
  EXPECT(is_onboarding_cheaper(2, 100, 64, {}));  // nothing known
  EXPECT(is_onboarding_cheaper(2, 100, 64, {.bytes_per_second = 100}));
  // 2 s of copying against 64 tokens
  EXPECT(is_onboarding_cheaper(2, 100, 64, {.bytes_per_second = 100, .tokens_per_second = 32}));
  EXPECT(!is_onboarding_cheaper(2, 100, 64, {.bytes_per_second = 100, .tokens_per_second = 33}));
  kv_cache::MeasuredRate rate;
  EXPECT_EQ(rate.per_second(), 0.0);
  rate.add(100, 0);  // no time has passed: nothing is learnt
  EXPECT_EQ(rate.per_second(), 0.0);
  for (int i = 0; i < 1000; ++i) rate.add(10, 0.01);
  EXPECT(std::abs(rate.per_second() - 1000) < 1e-6);
  rate.add(0.1, 0.01);  // one odd step
  EXPECT(rate.per_second() > 950);
  for (int i = 0; i < 500; ++i) rate.add(20, 0.01);  // five seconds at another rate
  EXPECT(rate.per_second() > 1900);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {
          {"conversations_go_through_the_host", conversations_go_through_the_host},
          {"a_hit_in_the_host_leaves_the_others_in_time",
           a_hit_in_the_host_leaves_the_others_in_time},
          {"a_failed_step_leaves_no_trace", a_failed_step_leaves_no_trace},
          {"blocks_go_from_one_engine_to_another", blocks_go_from_one_engine_to_another},
          {"cases_of_costs", cases_of_costs},
      },
      argc, argv);
}
