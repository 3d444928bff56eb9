// max_utilization in pools that are too small for what runs: whatever is preempted, when and how
// often, the answers are those of a pool without end, and no request is lost, told twice or
// starved.
#include <random>

#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

EngineConfig max_utilization() {
  EngineConfig config;
  config.batch_scheduler_policy = "max_utilization";
  return config;
}

/// Four run, and the pool holds little more than one of 40 tokens.
EngineInfo tiny_pool(int num_blocks = 12) {
  EngineInfo info = small_info();
  info.num_blocks = num_blocks;
  return info;
}

void answers_are_those_of_a_large_pool() {
  Fixture fixture(tiny_pool(), max_utilization());
  Answer answers[6];
  for (int i = 0; i < 6; ++i) fixture.submit(answers[i], prompt_of(5 + i, i), 30, i % 2 == 1);
  for (int i = 0; i < 6; ++i) {
    EXPECT(answers[i].wait().finish_reason == FinishReason::kLength);
    EXPECT(answers[i].tokens() == expected_tokens(prompt_of(5 + i, i), 30));
    EXPECT_EQ(answers[i].num_finals(), 1);
  }
  fixture.engine->shut_down();
  const EngineStats stats = fixture.engine->stats();
  EXPECT(stats.preemptions > 0);
  EXPECT_EQ(stats.paused_requests, 0);
  // What ran a second time is not counted a second time.
  EXPECT_EQ(stats.prompt_tokens, 5 + 6 + 7 + 8 + 9 + 10);
  EXPECT_EQ(stats.generated_tokens, 6 * 30);
}

/// In a pool that only one of them can grow in to its end, two requests of `priorities` run: the
/// one that `goes_on` ends first, and the other has the same answer as ever.
void expect_the_other_gives_way(const int (&priorities)[2], int goes_on) {
  Fixture fixture(tiny_pool(10), max_utilization());
  fixture.script->gate.close();
  Answer answers[2];
  for (int i = 0; i < 2; ++i)
    fixture.submit(answers[i], prompt_of(8, 1 + i), 28, i == 0, priorities[i]);
  fixture.script->gate.open();
  const int64_t ended = answers[goes_on].wait().times.last_token_ns;
  EXPECT(ended < answers[1 - goes_on].wait().times.last_token_ns);
  for (int i = 0; i < 2; ++i)
    EXPECT(answers[i].tokens() == expected_tokens(prompt_of(8, 1 + i), 28));
  EXPECT(fixture.engine->stats().preemptions >= 1);
}

void the_lowest_priority_gives_way() { expect_the_other_gives_way({0, 1}, 1); }

void the_newest_gives_way() { expect_the_other_gives_way({0, 0}, 0); }

/// One that waits for its blocks after a preemption can still be cancelled, and is told once.
void a_preempted_one_can_be_cancelled() {
  Fixture fixture(tiny_pool(10), max_utilization());
  fixture.script->gate.close();
  Answer first, second;
  fixture.submit(first, prompt_of(8, 1), 28);
  const executor::RequestId id = fixture.submit(second, prompt_of(8, 2), 28, true);
  // Step by step, so that the first is far from its end when the second has given way to it.
  for (int step = 1; fixture.engine->stats().paused_requests == 0 && step < 26; ++step) {
    fixture.script->gate.let_pass(1);
    fixture.script->gate.wait_for_arrivals(step + 1);
  }
  EXPECT_EQ(fixture.engine->stats().paused_requests, 1);
  fixture.engine->cancel(id);
  fixture.script->gate.open();
  EXPECT(second.wait().finish_reason == FinishReason::kCancelled);
  EXPECT(first.wait().finish_reason == FinishReason::kLength);
  const auto tokens = second.tokens();
  const auto all = expected_tokens(prompt_of(8, 2), 28);
  EXPECT(!tokens.empty() && tokens.size() < all.size());
  EXPECT(std::equal(tokens.begin(), tokens.end(), all.begin()));
  EXPECT_EQ(second.num_finals(), 1);
}

/// Rows of logits go out once each, whatever runs a second time.
void logits_go_out_once() {
  Fixture fixture(tiny_pool(), max_utilization());
  Answer answers[4];
  for (int i = 0; i < 4; ++i) {
    Request request;
    request.input_ids = prompt_of(12 + i, i);
    request.stop.max_new_tokens = 25;
    request.return_context_logits = request.return_generation_logits = true;
    fixture.submit(answers[i], std::move(request));
  }
  for (int i = 0; i < 4; ++i) {
    const executor::Response& last = answers[i].wait();
    EXPECT_EQ(last.context_logits.size(), static_cast<size_t>((12 + i) * kVocabSize));
    EXPECT_EQ(last.generation_logits.size(), static_cast<size_t>(25 * kVocabSize));
    const auto prompt = prompt_of(12 + i, i);
    for (size_t row = 0; row < prompt.size(); ++row) {
      const int32_t next = next_token(std::span(prompt).first(row + 1));
      EXPECT_EQ(last.context_logits[row * kVocabSize + next], 1.0f);
    }
    EXPECT(answers[i].tokens() == expected_tokens(prompt, 25));
  }
  fixture.engine->shut_down();
  EXPECT(fixture.engine->stats().preemptions > 0);
}

/// Bad words of several ids need each token before the next row: with steps in flight, too.
void rows_that_need_the_newest_token() {
  Fixture fixture(tiny_pool(), max_utilization());
  Answer answers[4];
  for (int i = 0; i < 4; ++i) {
    Request request;
    request.input_ids = prompt_of(6 + i, i);
    request.stop.max_new_tokens = 28;
    if (i % 2 == 0) request.stop.bad_words = {{1, 2}};
    fixture.submit(answers[i], std::move(request));
  }
  for (int i = 0; i < 4; ++i) {
    answers[i].wait();
    EXPECT(answers[i].tokens() == expected_tokens(prompt_of(6 + i, i), 28));
  }
  fixture.engine->shut_down();
  EXPECT(fixture.engine->stats().preemptions > 0);
}

/// A step that fails while preempted sequences wait for it fails its own only.
void a_step_fails_beside_preempted_ones() {
  Fixture fixture(tiny_pool(), max_utilization());
  fixture.script->break_at_step = 14;
  Answer answers[6];
  for (int i = 0; i < 6; ++i) fixture.submit(answers[i], prompt_of(5 + i, i), 30);
  int num_failed = 0;
  for (int i = 0; i < 6; ++i) {
    if (answers[i].wait().finish_reason == FinishReason::kError) {
      ++num_failed;
    } else {
      EXPECT(answers[i].tokens() == expected_tokens(prompt_of(5 + i, i), 30));
    }
  }
  EXPECT(num_failed >= 1 && num_failed < 6);
}

/// Random lengths, priorities, tenants and cancels.
void random_requests() {
  EngineInfo info = tiny_pool();
  info.max_batch_size = 8;
  info.num_blocks = 18;
  Fixture fixture(info, max_utilization());
  std::mt19937 random(5);
  constexpr int kCount = 200;
  std::vector<Answer> answers(kCount);
  std::vector<std::pair<int, int>> lengths;
  std::vector<executor::RequestId> ids;
  for (int i = 0; i < kCount; ++i) {
    lengths.emplace_back(1 + static_cast<int>(random() % 30), 1 + static_cast<int>(random() % 30));
    Request request;
    request.input_ids = prompt_of(lengths[i].first, i);
    request.stop.max_new_tokens = lengths[i].second;
    request.streaming = random() % 2 == 0;
    request.priority = static_cast<int>(random() % 3);
    request.tenant = std::string(1, static_cast<char>('a' + random() % 4));
    ids.push_back(fixture.submit(answers[i], std::move(request)));
    if (random() % 8 == 0) fixture.engine->cancel(ids[random() % ids.size()]);
  }
  for (int i = 0; i < kCount; ++i) {
    const executor::Response& last = answers[i].wait();
    const auto tokens = answers[i].tokens();
    const auto all = expected_tokens(prompt_of(lengths[i].first, i), lengths[i].second);
    EXPECT(!last.error);
    EXPECT(tokens.size() <= all.size() && std::equal(tokens.begin(), tokens.end(), all.begin()));
    if (last.finish_reason == FinishReason::kLength) EXPECT_EQ(tokens.size(), all.size());
    EXPECT_EQ(answers[i].num_finals(), 1);
  }
  fixture.engine->shut_down();
  EXPECT(fixture.engine->stats().preemptions > 0);
}

/// None of the next batch begins before the last of this one has its last token.
void a_static_batch_runs_to_its_end() {
  EngineInfo info = small_info();
  info.num_blocks = 400;
  EngineConfig config;
  config.batch_scheduler_policy = "static_batch";
  Fixture fixture(info, config);
  fixture.script->gate.close();
  Answer answers[9];
  fixture.submit(answers[8], prompt_of(1), 1);  // holds the first step until all wait
  fixture.script->gate.wait_for_arrivals(1);
  // 13 prompt tokens each: a step of 16 tokens cannot read those of a batch.
  for (int i = 0; i < 8; ++i) fixture.submit(answers[i], prompt_of(13, i), 20 + 4 * (i % 4));
  fixture.script->gate.open();
  int64_t ended[2] = {0, 0}, began = std::numeric_limits<int64_t>::max();
  for (int i = 0; i < 8; ++i) {
    const executor::RequestTimes times = answers[i].wait().times;
    ended[i / 4] = std::max(ended[i / 4], times.last_token_ns);
    if (i >= 4) began = std::min(began, times.first_scheduled_ns);
    EXPECT(answers[i].tokens() == expected_tokens(prompt_of(13, i), 20 + 4 * (i % 4)));
  }
  EXPECT(ended[0] <= began);
  EXPECT(fixture.script->max_sequences == 4);
}

/// The one of the tenant that has been served least begins first.
void tenants_share() {
  Fixture fixture(small_info(1));
  fixture.script->gate.close();
  Answer answers[6];
  const char* const tenants[] = {"a", "a", "a", "a", "b", "b"};
  for (int i = 0; i < 6; ++i) {
    Request request;
    request.input_ids = prompt_of(8, i);
    request.stop.max_new_tokens = 4;
    request.tenant = tenants[i];
    fixture.submit(answers[i], std::move(request));
    if (i == 0) fixture.script->gate.wait_for_arrivals(1);
  }
  fixture.script->gate.open();
  expect_to_begin(answers, {0, 4, 1, 5, 2, 3});
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"answers_are_those_of_a_large_pool", answers_are_those_of_a_large_pool},
       {"the_lowest_priority_gives_way", the_lowest_priority_gives_way},
       {"the_newest_gives_way", the_newest_gives_way},
       {"a_preempted_one_can_be_cancelled", a_preempted_one_can_be_cancelled},
       {"logits_go_out_once", logits_go_out_once},
       {"rows_that_need_the_newest_token", rows_that_need_the_newest_token},
       {"a_step_fails_beside_preempted_ones", a_step_fails_beside_preempted_ones},
       {"random_requests", random_requests},
       {"a_static_batch_runs_to_its_end", a_static_batch_runs_to_its_end},
       {"tenants_share", tenants_share}},
      argc, argv);
}
