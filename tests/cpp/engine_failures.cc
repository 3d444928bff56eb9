// The engine loop when something breaks: the model, the device, our own memory, one row.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "tests/cpp/engine_fixture.h"

namespace {
thread_local int allocations_before_failure = -1;  // -1: none fails
std::atomic<bool> has_failed{false};               // since it was last set
}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  if (allocations_before_failure >= 0 && allocations_before_failure-- == 0) {
    has_failed = true;
    throw std::bad_alloc();
  }
  if (void* data = std::malloc(size)) return data;
  throw std::bad_alloc();
}
// Its own calls malloc, not the replaced operator, where a sanitizer stands in.
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace inflight::testing {
namespace {

/// Two of three run when step 3 goes wrong as `fail_step` has the script do it.
void expect_those_in_flight_fail(std::atomic<int> Script::* fail_step, ErrorCode code,
                                 const char* message) {
  Fixture fixture(small_info(2));
  fixture.script->gate.close();
  Answer failing[2], other;
  fixture.submit(failing[0], prompt_of(4, 1), 10, true);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit(failing[1], prompt_of(4, 2), 10);
  fixture.submit(other, prompt_of(4, 3), 10);
  (*fixture.script).*fail_step = 3;
  fixture.script->gate.open();
  for (Answer& answer : failing) {
    const executor::Response& last = answer.wait();
    EXPECT(last.finish_reason == FinishReason::kError);
    EXPECT(last.error && last.error->code() == code);
    EXPECT(std::string(last.error->what()).find(message) != std::string::npos);
    EXPECT_EQ(answer.num_finals(), 1);
  }
  EXPECT(failing[0].tokens() == expected_tokens(prompt_of(4, 1), 3));
  EXPECT(other.wait().finish_reason == FinishReason::kLength);
  EXPECT(other.tokens() == expected_tokens(prompt_of(4, 3), 10));
  EXPECT(fixture.engine->is_healthy());
  EXPECT_EQ(fixture.engine->stats().failed_requests, 2);
  fixture.expect_all_free();
}

void a_failed_step_fails_its_requests_only() {
  expect_those_in_flight_fail(&Script::fail_at_step, ErrorCode::kInternal, "scripted failure");
}

void a_step_that_breaks_fails_all_in_flight() {
  expect_those_in_flight_fail(&Script::break_at_step, ErrorCode::kInternal, "scripted break");
}

void a_break_while_shutting_down() {
  Fixture fixture;
  fixture.script->gate.close();
  Answer answer;
  fixture.submit(answer, prompt_of(4, 1), 10);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.script->break_at_step = 1;
  fixture.script->usable = false;
  fixture.script->gate.open();
  fixture.engine->shut_down();
  const FinishReason reason = answer.wait().finish_reason;
  EXPECT(reason == FinishReason::kCancelled || reason == FinishReason::kError);
  EXPECT_EQ(answer.num_finals(), 1);
}

void expect_dead(Fixture& fixture, const std::vector<Answer*>& answers) {
  for (Answer* answer : answers) {
    const executor::Response& last = answer->wait();
    EXPECT(last.finish_reason == FinishReason::kError);
    EXPECT(last.error && last.error->code() == ErrorCode::kInternal);
  }
  EXPECT(!fixture.engine->is_healthy());
  Answer refused;
  EXPECT_RAISES(fixture.submit(refused, prompt_of(3), 4), "the engine has died");
  EXPECT_EQ(fixture.engine->stats().active_requests, 0);
  fixture.engine->cancel(1);
  fixture.engine.reset();
  for (Answer* answer : answers) EXPECT_EQ(answer->num_finals(), 1);
}

void an_unusable_device_ends_the_engine() {
  Fixture fixture(small_info(1));
  fixture.script->gate.close();
  Answer running, waiting;
  fixture.submit(running, prompt_of(4), 10);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit(waiting, prompt_of(4), 10);
  fixture.script->usable = false;
  fixture.script->fail_at_step = 2;
  fixture.script->gate.open();
  expect_dead(fixture, {&running, &waiting});
}

void a_throw_in_commit_ends_the_engine() {
  Fixture fixture(small_info(2));
  fixture.script->gate.close();
  Answer first, second, waiting;
  fixture.submit(first, prompt_of(4, 1), 10, true);
  fixture.submit(second, prompt_of(4, 2), 10);
  fixture.submit(waiting, prompt_of(4, 3), 10);
  // The first token of a sequence needs memory when it is committed.
  fixture.script->after_step = [] { allocations_before_failure = 0; };
  fixture.script->gate.open();
  expect_dead(fixture, {&first, &second, &waiting});
}

void what_comes_while_the_engine_dies_is_answered() {
  Fixture fixture(small_info(2));
  fixture.script->gate.close();
  Answer first, late;
  fixture.submit(first, prompt_of(4, 1), 10);
  std::future<std::string> exported;  // what it raised
  // Between the last look into the inbox and the death.
  fixture.script->after_step = [&, has_run = false]() mutable {
    if (std::exchange(has_run, true)) return;
    fixture.submit(late, prompt_of(4, 2), 10);
    exported = std::async(std::launch::async, [&]() -> std::string {
      try {
        fixture.engine->export_prefix(prompt_of(4, 1));
      } catch (const Error& error) {
        return error.what();
      }
      return "nothing";
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // it is in the inbox, most likely
    allocations_before_failure = 0;
  };
  fixture.script->gate.open();
  EXPECT(first.wait().finish_reason == FinishReason::kError);
  EXPECT(late.wait().error && late.wait().error->code() == ErrorCode::kInternal);
  const std::string raised = exported.get();
  EXPECT(raised == "the engine has ended" || raised.starts_with("the engine has died"));
  expect_dead(fixture, {&first, &late});
}

/// Requests come and one is cancelled while the engine's thread has memory for `count` pieces more,
/// once not for the next. Whether it wanted so many.
bool memory_ends_after(int count) {
  const auto wait_for_launch = [](Fixture& fixture, int step) {
    while (fixture.script->num_steps <= step) std::this_thread::yield();
  };
  EngineConfig config;
  config.max_queue_size = 3;
  config.queue_timeout = std::chrono::minutes(1);
  Fixture fixture(small_info(2), config);
  fixture.script->gate.close();
  Answer answers[4];
  fixture.script->after_step = [count, has_run = false]() mutable {
    if (!std::exchange(has_run, true)) allocations_before_failure = count;
  };
  has_failed = false;
  fixture.submit(answers[0], prompt_of(6, 1), 10, true);
  wait_for_launch(fixture, 0);
  fixture.submit(answers[1], prompt_of(9, 2), 10);
  const executor::RequestId unwanted = fixture.submit(answers[2], prompt_of(9, 3), 10);
  fixture.submit(answers[3], prompt_of(6, 1), 10);
  fixture.engine->cancel(unwanted);
  fixture.script->gate.open();
  for (Answer& answer : answers) {
    answer.wait();
    EXPECT_EQ(answer.num_finals(), 1);
  }
  if (!has_failed) return false;
  if (!fixture.engine->is_healthy()) {
    EXPECT_EQ(fixture.engine->stats().active_requests, 0);
  } else {  // and takes as many as ever
    fixture.expect_all_free();
    fixture.script->gate.close();
    Answer more[4];
    const int step = fixture.script->num_steps;
    for (int i = 0; i < 4; ++i) {
      fixture.submit(more[i], prompt_of(4, 9 + i), 5);
      if (i == 0) wait_for_launch(fixture, step);
    }
    fixture.script->gate.open();
    for (int i = 0; i < 4; ++i)
      EXPECT(!more[i].wait().error && more[i].tokens() == expected_tokens(prompt_of(4, 9 + i), 5));
  }
  return true;
}

void memory_that_ends_anywhere_costs_no_ending() {
  if (callbacks_return_at_once) return;  // those of the test want memory on that thread, too
  constexpr int kMostPieces = 150;       // of the round in which the requests come, and a few more
  for (int count = 0; count < kMostPieces && memory_ends_after(count); ++count) {
  }
}

void a_row_that_cannot_be_sampled_fails_alone() {
  Fixture fixture;
  fixture.script->gate.close();
  fixture.script->edit = [](const decoding::SampleRow& row, decoding::SampledToken token) {
    if (row.prompt_ids.size() == 5)
      token = {.id = -1, .status = decoding::SampleStatus::kNanLogits};
    return token;
  };
  Answer bad, good;
  fixture.submit(bad, prompt_of(5), 6);
  fixture.submit(good, prompt_of(4), 6);
  fixture.script->gate.open();
  EXPECT(bad.wait().finish_reason == FinishReason::kError);
  EXPECT(bad.wait().error.has_value());
  EXPECT(good.wait().finish_reason == FinishReason::kLength);
  EXPECT(good.tokens() == expected_tokens(prompt_of(4), 6));
  fixture.expect_all_free();
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"a_failed_step_fails_its_requests_only", a_failed_step_fails_its_requests_only},
       {"a_step_that_breaks_fails_all_in_flight", a_step_that_breaks_fails_all_in_flight},
       {"a_break_while_shutting_down", a_break_while_shutting_down},
       {"an_unusable_device_ends_the_engine", an_unusable_device_ends_the_engine},
       {"a_throw_in_commit_ends_the_engine", a_throw_in_commit_ends_the_engine},
       {"what_comes_while_the_engine_dies_is_answered",
        what_comes_while_the_engine_dies_is_answered},
       {"memory_that_ends_anywhere_costs_no_ending", memory_that_ends_anywhere_costs_no_ending},
       {"a_row_that_cannot_be_sampled_fails_alone", a_row_that_cannot_be_sampled_fails_alone}},
      argc, argv);
}
