// Requests whose time is up, and the order in which those that wait begin.
#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

void a_deadline_ends_with_the_tokens_so_far() {
  Fixture fixture;
  fixture.script->gate.close();
  Answer late, other;
  fixture.submit_with_deadline(late, prompt_of(4), 50, milliseconds(40));
  fixture.submit(other, prompt_of(5), 50);
  fixture.script->gate.let_pass(3);
  fixture.script->gate.wait_for_arrivals(4);
  std::this_thread::sleep_for(milliseconds(60));
  fixture.script->gate.open();
  const executor::Response& last = late.wait();
  EXPECT(last.finish_reason == FinishReason::kDeadline);
  EXPECT(!last.error.has_value());
  const size_t num_tokens = late.tokens().size();
  EXPECT(num_tokens >= 1 && num_tokens <= 5);
  EXPECT(late.tokens() == expected_tokens(prompt_of(4), static_cast<int>(num_tokens)));
  EXPECT(other.wait().finish_reason == FinishReason::kLength);
  EXPECT(other.tokens() == expected_tokens(prompt_of(5), 50));
  EXPECT_EQ(late.num_finals(), 1);
  EXPECT_EQ(fixture.engine->stats().timed_out_requests, 1);
  EXPECT_EQ(fixture.engine->stats().finished_requests, 1);
  fixture.expect_all_free();
}

/// The step that runs is the last: the request is answered with its end, not when it would be done.
/// That it began in the time that the queue gives takes nothing from its deadline.
void a_deadline_is_heard_within_a_step() {
  EngineConfig config;
  config.queue_timeout = milliseconds(100);
  Fixture fixture(small_info(), config);
  fixture.script->after_step = [] { std::this_thread::sleep_for(milliseconds(5)); };
  Answer answer;
  const Clock::time_point start = Clock::now();
  fixture.submit_with_deadline(answer, prompt_of(4), 50, milliseconds(120));
  answer.wait();
  EXPECT(answer.wait().finish_reason == FinishReason::kDeadline);
  EXPECT(Clock::now() - start >= milliseconds(120));
  EXPECT(answer.tokens().size() < 50u);
}

void no_token_by_the_deadline_is_an_error() {
  Fixture fixture(small_info(1));
  fixture.script->gate.close();
  Answer running, waiting;
  fixture.submit(running, prompt_of(4), 20);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit_with_deadline(waiting, prompt_of(5), 20, milliseconds(10));
  std::this_thread::sleep_for(milliseconds(20));
  fixture.script->gate.let_pass(2);
  const executor::Response& last = waiting.wait();  // while the other still runs
  EXPECT(last.finish_reason == FinishReason::kError);
  EXPECT(last.error && last.error->code() == ErrorCode::kTimedOut);
  EXPECT_EQ(std::string(last.error->what()).rfind("Request timeout expired: its deadline", 0), 0u);
  EXPECT(waiting.tokens().empty());
  fixture.script->gate.open();
  EXPECT(running.wait().finish_reason == FinishReason::kLength);
  EXPECT_EQ(fixture.engine->stats().timed_out_requests, 1);
  EXPECT_EQ(fixture.engine->stats().failed_requests, 0);
  fixture.expect_all_free();
}

void the_queue_has_a_timeout_of_its_own() {
  EngineConfig config;
  config.queue_timeout = milliseconds(10);
  config.max_queue_size = 1;
  Fixture fixture(small_info(1), config);
  fixture.script->gate.close();
  Answer running, waiting, later;
  fixture.submit(running, prompt_of(4), 20);  // runs longer than requests may wait
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit(waiting, prompt_of(5), 20);
  std::this_thread::sleep_for(milliseconds(20));
  fixture.script->gate.let_pass(2);
  const executor::Response& last = waiting.wait();
  EXPECT(last.error && last.error->code() == ErrorCode::kTimedOut);
  EXPECT(std::string(last.error->what()).find("queue_timeout_ms is 10") != std::string::npos);
  fixture.submit(later, prompt_of(6), 2);  // its place in the queue is free again
  fixture.script->gate.open();
  EXPECT(running.wait().finish_reason == FinishReason::kLength);
  EXPECT_EQ(running.tokens().size(), 20u);
  later.wait();
  EXPECT_EQ(waiting.num_finals(), 1);
}

void one_that_has_passed_ends_at_once() {
  Fixture fixture;
  Answer answer;
  fixture.submit_with_deadline(answer, prompt_of(4), 20, milliseconds(-5));
  const executor::Response& last = answer.wait();
  EXPECT(last.error && last.error->code() == ErrorCode::kTimedOut);
  EXPECT_EQ(fixture.script->num_steps.load(), 0);
  fixture.expect_all_free();
}

/// Larger first, and in order of arrival among equals.
void priorities_decide_who_begins() {
  Fixture fixture(small_info(1));
  fixture.script->gate.close();
  Answer answers[6];
  const int priorities[] = {0, 0, 5, -1, 5, 0};
  fixture.submit(answers[0], prompt_of(4), 2);
  fixture.script->gate.wait_for_arrivals(1);
  for (int i = 1; i < 6; ++i)
    fixture.submit(answers[i], prompt_of(4, 1 + i), 2, false, priorities[i]);
  fixture.script->gate.open();
  expect_to_begin(answers, {0, 2, 4, 1, 5, 3});
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"a_deadline_ends_with_the_tokens_so_far", a_deadline_ends_with_the_tokens_so_far},
       {"a_deadline_is_heard_within_a_step", a_deadline_is_heard_within_a_step},
       {"no_token_by_the_deadline_is_an_error", no_token_by_the_deadline_is_an_error},
       {"the_queue_has_a_timeout_of_its_own", the_queue_has_a_timeout_of_its_own},
       {"one_that_has_passed_ends_at_once", one_that_has_passed_ends_at_once},
       {"priorities_decide_who_begins", priorities_decide_who_begins}},
      argc, argv);
}
