// An engine whose step does not come back, and what it says of itself when it dies.
#include <atomic>
#include <mutex>
#include <optional>
#include <string>

#include "kernels/core/log.h"
#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

using std::chrono::milliseconds;

/// What is logged while it lives.
class Log {
 public:
  Log() {
    set_log_sink([this](LogLevel level, std::string_view message) {
      std::lock_guard lock(mutex_);
      if (level == LogLevel::kError) errors_.append(message).append("\n");
    });
  }
  ~Log() { set_log_sink({}); }
  bool holds(const std::string& text) const {
    std::lock_guard lock(mutex_);
    return errors_.find(text) != std::string::npos;
  }

 private:
  mutable std::mutex mutex_;
  std::string errors_;
};

EngineConfig with_watchdog(milliseconds timeout) {
  EngineConfig config;
  config.step_timeout = timeout;
  return config;
}

EngineInfo two_at_a_time() {
  EngineInfo info = small_info(2);
  return info;
}

struct Failures {
  explicit Failures(Engine& engine) {
    engine.on_failure([this](const std::string& why) {
      cause = why;
      ++count;
    });
  }
  void wait() const {
    while (count == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  std::atomic<int> count{0};
  std::string cause;  // to be read when count is 1
};

void expect_failed(Answer& answer, const std::string& why) {
  const executor::Response& last = answer.wait();
  EXPECT(last.finish_reason == FinishReason::kError);
  EXPECT(last.error && last.error->code() == ErrorCode::kInternal);
  EXPECT(last.error && std::string(last.error->what()).find(why) != std::string::npos);
}

void a_step_that_hangs_fails_every_request() {
  Log log;
  Fixture fixture(two_at_a_time(), with_watchdog(milliseconds(400)));
  Failures failures(*fixture.engine);
  fixture.script->gate.close();
  Answer answers[4], refused;
  for (int i = 0; i < 4; ++i) fixture.submit(answers[i], prompt_of(4, i), 20, i % 2 == 0);
  fixture.script->gate.let_pass(3);
  for (Answer& answer : answers) expect_failed(answer, "step_timeout_ms is 400");
  failures.wait();
  EXPECT(!fixture.engine->is_healthy());
  EXPECT(!fixture.engine->stats().is_healthy);
  EXPECT_EQ(fixture.engine->stats().active_requests, 0);
  EXPECT_EQ(fixture.engine->stats().failed_requests, 4);
  try {
    fixture.submit(refused, prompt_of(3), 4);
    EXPECT(false);
  } catch (const Error& error) {
    EXPECT(error.code() == ErrorCode::kUnavailable);
    EXPECT(std::string(error.what()).find("the engine hangs") != std::string::npos);
  }
  EXPECT(log.holds("the engine hangs: a step has taken "));
  EXPECT(log.holds("2 running, 2 waiting"));
  EXPECT(log.holds("running: prompt of 4, "));
  EXPECT(log.holds("waiting: prompt of 4, 0 of 20 generated, 0 blocks"));
  // What was streamed before is right, and what the thread says when it comes back is not heard.
  const std::vector<int32_t> streamed = answers[0].tokens();
  EXPECT(streamed == expected_tokens(prompt_of(4, 0), static_cast<int>(streamed.size())));
  fixture.script->gate.open();
  fixture.engine.reset();
  for (Answer& answer : answers) EXPECT_EQ(answer.num_finals(), 1);
  EXPECT(answers[0].tokens() == streamed);
  EXPECT_EQ(failures.count.load(), 1);
}

void an_engine_that_hangs_can_be_left_behind() {
  Log log;
  std::weak_ptr<Script> script;
  Answer answer;
  {
    Fixture fixture(small_info(), with_watchdog(milliseconds(20)));
    script = fixture.script;
    fixture.script->gate.close();
    fixture.submit(answer, prompt_of(4), 20);
    expect_failed(answer, "the engine hangs");
    fixture.engine.reset();  // though the step goes on
    EXPECT(log.holds("left behind"));
  }  // opens the gate
  for (int i = 0; i < 5000 && !script.expired(); ++i) std::this_thread::sleep_for(milliseconds(1));
  EXPECT(script.expired());  // the thread came back and took the engine with it
  EXPECT_EQ(answer.num_finals(), 1);
}

void a_hang_while_shutting_down() {
  Log log;
  Fixture fixture(small_info(), with_watchdog(milliseconds(50)));
  fixture.script->gate.close();
  Answer answer;
  fixture.submit(answer, prompt_of(4), 20);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.engine->shut_down();
  const FinishReason reason = answer.wait().finish_reason;
  EXPECT(reason == FinishReason::kError || reason == FinishReason::kCancelled);
  EXPECT_EQ(answer.num_finals(), 1);
}

void patience_is_for_a_step_not_for_a_request() {
  Fixture fixture(small_info(), with_watchdog(milliseconds(400)));
  std::this_thread::sleep_for(milliseconds(460));  // idle
  fixture.script->after_step = [] { std::this_thread::sleep_for(milliseconds(24)); };
  Answer answer;
  fixture.submit(answer, prompt_of(4), 20);  // 480 ms in all
  EXPECT(answer.wait().finish_reason == FinishReason::kLength);
  EXPECT(fixture.engine->is_healthy());
  fixture.expect_all_free();
}

void a_loop_that_dies_says_what_it_did() {
  Log log;
  Fixture fixture(two_at_a_time());
  Failures failures(*fixture.engine);
  fixture.script->gate.close();
  Answer answers[3];
  for (int i = 0; i < 3; ++i) fixture.submit(answers[i], prompt_of(4, i), 20);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.script->usable = false;
  fixture.script->break_at_step = 2;
  fixture.script->gate.open();
  for (Answer& answer : answers) {
    EXPECT(answer.wait().finish_reason == FinishReason::kError);
    EXPECT_EQ(answer.num_finals(), 1);
  }
  failures.wait();
  EXPECT_EQ(failures.count.load(), 1);
  EXPECT(failures.cause.find("scripted break") != std::string::npos);
  EXPECT(log.holds("the engine has died: "));
  EXPECT(log.holds("waiting: prompt of 4"));
  Answer refused;
  EXPECT_RAISES(fixture.submit(refused, prompt_of(3), 4), "the engine has died");
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"a_step_that_hangs_fails_every_request", a_step_that_hangs_fails_every_request},
       {"an_engine_that_hangs_can_be_left_behind", an_engine_that_hangs_can_be_left_behind},
       {"a_hang_while_shutting_down", a_hang_while_shutting_down},
       {"patience_is_for_a_step_not_for_a_request", patience_is_for_a_step_not_for_a_request},
       {"a_loop_that_dies_says_what_it_did", a_loop_that_dies_says_what_it_did}},
      argc, argv);
}
