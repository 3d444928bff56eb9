// A model whose engine dies or hangs: its requests end, the server is asked to unload it, and it
// says that it is not ready.
#include <chrono>
#include <thread>

#include "backend/triton/triton_error.h"
#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

void wait_for_unloads(size_t count) {
  for (int i = 0; i < 2000 && fake_unloaded_models().size() < count; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(fake_unloaded_models().size(), count);
}

executor::EngineConfig with_watchdog() {
  executor::EngineConfig config;
  config.step_timeout = std::chrono::milliseconds(400);
  return config;
}

void a_hang_takes_the_model_out_of_service() {
  fake_refuse_unloads(false);
  Backend backend(true, with_watchdog());
  backend.state->check_ready();
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(make_request(prompt_of(3 + i), 40));
    requests.back()->flag("streaming", i % 2 == 0);
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(3);
  for (const RequestPtr& request : requests) {
    const FakeAnswer& last = backend.ended(request).back();
    EXPECT(last.error.has_value());
    EXPECT_EQ(last.code, TRITONSERVER_ERROR_INTERNAL);
    EXPECT_CONTAINS(last.error.value_or(""), "the engine hangs: a step has taken");
  }
  wait_for_unloads(1);
  EXPECT(fake_unloaded_models() == std::vector<std::string>{"tensorrt_llm"});
  EXPECT_RAISES(backend.state->check_ready(), "tensorrt_llm: the engine has died");
  const auto gauges = fake_gauges();
  EXPECT_EQ(gauges.at("nv_llm_engine_metrics healthy"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics active"), 0);
  const RequestPtr later = make_request(prompt_of(3), 4);
  EXPECT_CONTAINS(backend.error_of(later), "the engine hangs");
  EXPECT_EQ(later->answers.back().code, TRITONSERVER_ERROR_UNAVAILABLE);
}

void a_server_that_does_not_unload_goes_on_answering() {
  fake_refuse_unloads(true);
  Backend backend;
  backend.script->usable = false;
  backend.script->fail_at_step = 2;
  backend.error_of(make_request(prompt_of(3), 20));
  wait_for_unloads(1);
  for (int i = 0; i < 3; ++i) {
    const RequestPtr request = make_request(prompt_of(3), 4);
    EXPECT_CONTAINS(backend.error_of(request), "the engine has died");
    EXPECT_EQ(request->answers.back().code, TRITONSERVER_ERROR_UNAVAILABLE);
  }
  EXPECT_EQ(fake_unloaded_models().size(), 1u);  // asked once
}

void a_failed_step_is_no_death() {
  fake_refuse_unloads(false);
  Backend backend;
  backend.script->fail_at_step = 2;
  backend.error_of(make_request(prompt_of(3), 20));
  backend.run(make_request(prompt_of(3), 20));
  backend.state->check_ready();
  EXPECT(fake_unloaded_models().empty());
  EXPECT_EQ(fake_gauges().at("nv_llm_engine_metrics healthy"), 1);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"a_hang_takes_the_model_out_of_service", a_hang_takes_the_model_out_of_service},
          {"a_server_that_does_not_unload_goes_on_answering",
           a_server_that_does_not_unload_goes_on_answering},
          {"a_failed_step_is_no_death", a_failed_step_is_no_death},
      },
      argc, argv);
}
