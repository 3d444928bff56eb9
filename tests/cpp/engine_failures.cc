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
thread_local bool fail_next_allocation = false;
}

[[gnu::noinline]] void* operator new(size_t size) {
  if (fail_next_allocation) {
    fail_next_allocation = false;
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
  fixture.script->after_step = [] { fail_next_allocation = true; };
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
    fail_next_allocation = true;
  };
  fixture.script->gate.open();
  EXPECT(first.wait().finish_reason == FinishReason::kError);
  EXPECT(late.wait().error && late.wait().error->code() == ErrorCode::kInternal);
  const std::string raised = exported.get();
  EXPECT(raised == "the engine has ended" || raised.starts_with("the engine has died"));
  expect_dead(fixture, {&first, &late});
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
       {"a_row_that_cannot_be_sampled_fails_alone", a_row_that_cannot_be_sampled_fails_alone}},
      argc, argv);
}
