// Requests that end otherwise than by their last token: stopped, cancelled, refused, unloaded,
// failed.
#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

void stop_by_id() {
  Backend backend;
  const Ids prompt = prompt_of(3);
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (const char* id : {"twice", "twice", "other"}) {
    requests.push_back(make_request(prompt, 20));
    requests.back()->id = id;
    requests.back()->flag("streaming", true);
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(4);
  requests[0]->wait_for_answers(1);

  const RequestPtr command = make_request({0}, 0);
  command->id = "twice";
  command->flag("stop", true);
  const auto& reply = backend.run(command);
  EXPECT_EQ(reply.size(), 1u);
  EXPECT(reply[0].outputs.empty() && !reply[0].error.has_value());

  backend.script->gate.open();
  const Ids tokens = expected_tokens(prompt, 20);
  for (int i = 0; i < 2; ++i) {
    const Ids got = joined(backend.ended(requests[i]));
    EXPECT(got.size() < 20u);
    EXPECT(std::equal(got.begin(), got.end(), tokens.begin()));
  }
  EXPECT(joined(backend.ended(requests[2])) == tokens);

  const RequestPtr unknown = make_request({0}, 0);
  unknown->id = "gone";
  unknown->flag("stop", true);
  EXPECT(!backend.run(unknown)[0].error.has_value());
  const RequestPtr nameless = make_request({0}, 0);
  nameless->flag("stop", true);
  EXPECT_CONTAINS(backend.error_of(nameless), "request ID is not provided");
}

void stop_by_engine_request_id() {
  Backend backend;
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 2; ++i) {  // both without an id
    requests.push_back(make_request(prompt_of(3), 20));
    requests.back()->flag("streaming", true);
    requests.back()->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(3);
  requests[1]->wait_for_answers(1);
  const int64_t id = engine_request_id(*requests[1]);
  const RequestPtr command = make_request({0}, 0);
  command->flag("stop", true);
  command->add("engine_request_id", TRITONSERVER_TYPE_UINT64, {1},
               std::vector<uint64_t>{static_cast<uint64_t>(id)});
  backend.run(command);
  backend.script->gate.open();
  EXPECT_EQ(joined(backend.ended(requests[0])).size(), 20u);
  EXPECT(joined(backend.ended(requests[1])).size() < 20u);
}

void cancelled_by_the_client() {
  for (const bool streaming : {false, true}) {
    Backend backend;
    backend.script->gate.close();
    // Steps slow enough for the response thread to keep up.
    backend.script->after_step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
    const RequestPtr gone = make_request(prompt_of(3), 60);
    gone->flag("streaming", streaming);
    const RequestPtr other = make_request(prompt_of(4), 30);
    backend.send(gone);
    backend.send(other);
    backend.script->gate.let_pass(3);
    gone->cancelled = true;
    backend.script->gate.open();
    // Both end by themselves if nobody hears of it: then it has all its tokens.
    const size_t num_ids = joined(backend.ended(gone)).size();
    EXPECT(num_ids < (streaming ? 60u : 63u));
    EXPECT_EQ(output_ids(backend.ended(other)[0]).size(), 34u);
    const auto gauges = fake_gauges();
    EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics used"), 0);
  }
}

/// It is heard of while a step goes on, so that step is the last.
void a_long_step_hides_no_cancellation() {
  Backend backend;
  backend.script->gate.close();
  const RequestPtr gone = make_request(prompt_of(3), 60);
  backend.send(gone);
  backend.script->gate.wait_for_arrivals(1);
  gone->cancelled = true;
  while (gone->num_told_cancelled < 2)  // what came of the first is done then
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  backend.script->gate.open();
  backend.ended(gone);
  EXPECT_EQ(backend.script->num_steps.load(), 1);
}

/// Running or waiting; however the server came to know of it (gRPC, HTTP, in its process).
void each_of_several_is_cancelled() {
  Backend backend;
  backend.script->gate.close();
  backend.script->after_step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 7; ++i) {  // four run at once
    requests.push_back(make_request(prompt_of(3 + i), 40));
    requests.back()->flag("streaming", i % 2 == 0);
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(3);
  requests[0]->wait_for_answers(1);
  constexpr size_t kStays = 5;
  for (size_t i = 0; i < requests.size(); ++i) requests[i]->cancelled = i != kStays;
  backend.script->gate.open();
  for (size_t i = 0; i < requests.size(); ++i) {
    const size_t num_ids = joined(backend.ended(requests[i])).size();
    const size_t whole = 40 + (i % 2 == 0 ? 0 : 3 + i);
    EXPECT_EQ(num_ids == whole, i == kStays);
  }
  EXPECT_EQ(fake_gauges().at("nv_trt_llm_kv_cache_block_metrics used"), 0);
}

void cancellations_are_looked_for_at_their_period() {
  for (const bool often : {true, false}) {
    triton::ModelSettings settings;
    settings.cancellation_check_period = std::chrono::hours(often ? 0 : 1);
    Backend backend(true, {}, nullptr, settings);
    // The first look is at once, but may come after the answer; before the next one's, then.
    for (int i = 0; i < 2; ++i) backend.run(make_request(prompt_of(3), 4));
    backend.script->after_step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
    const RequestPtr gone = make_request(prompt_of(3), 60);
    gone->cancelled = true;
    backend.send(gone);
    EXPECT_EQ(output_ids(backend.ended(gone).back()).size() < 63u, often);
  }
}

/// A server may still be writing to a client that has just left; see instance_state.cc.
void final_response_to_nobody_waits() {
  using Clock = std::chrono::steady_clock;
  for (const bool by_relay : {false, true}) {
    Backend backend;
    backend.script->gate.close();
    const RequestPtr gone = make_request(prompt_of(3), 60);
    gone->flag("streaming", true);
    gone->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    backend.send(gone);
    backend.script->gate.let_pass(3);
    gone->wait_for_answers(1);
    const Clock::time_point left = Clock::now();
    if (by_relay) {
      backend.state->client_left(static_cast<uint64_t>(engine_request_id(*gone)));
      EXPECT(Clock::now() - left < std::chrono::milliseconds(100));
    } else {
      gone->cancelled = true;
    }
    backend.script->gate.open();
    while (fake_gauges().at("nv_trt_llm_kv_cache_block_metrics used") != 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    {
      std::lock_guard lock(gone->mutex);
      EXPECT_EQ(gone->num_finals, 0);  // the blocks are back before it
    }
    backend.ended(gone);
    EXPECT(Clock::now() - left >= std::chrono::milliseconds(100));
  }
}

void unloading_does_not_wait_for_nobody() {
  Backend backend;
  backend.script->gate.close();
  const RequestPtr gone = make_request(prompt_of(3), 60);
  backend.send(gone);
  gone->cancelled = true;
  backend.close();
  backend.ended(gone);
}

void engine_failure_reaches_each_request() {
  Backend backend;
  backend.script->fail_at_step = 2;
  const RequestPtr request = make_request(prompt_of(3), 20);
  EXPECT_CONTAINS(backend.error_of(request), "Executor failed process requestId");
}

/// It is an error and counts as one, and goes out as the response that could not be filled, which a
/// stream would wait for; of several sequences the others are answered.
void an_answer_that_cannot_be_put_together() {
  Backend backend;
  fake_refuse_outputs(1);
  EXPECT_CONTAINS(backend.error_of(make_request(prompt_of(3), 4)),
                  "Error encountered while populating response: ");
  const RequestPtr several = make_request(prompt_of(3), 4);
  several->number("num_return_sequences", 3);
  fake_refuse_outputs(1);
  const auto& answers = backend.run(several);
  EXPECT_EQ(answers.size(), 3u);
  EXPECT_EQ(std::ranges::count_if(answers, [](const auto& a) { return a.error.has_value(); }), 1);
  EXPECT(!several->success);
  const RequestPtr stream = make_request(prompt_of(3), 60);
  stream->flag("streaming", true);
  fake_refuse_outputs(1);
  EXPECT_EQ(backend.run(stream).size(), 1u);
  EXPECT(stream->answers.back().error.has_value());
  EXPECT_EQ(fake_counts().dropped.load(), 0);
  const RequestPtr next = make_request(prompt_of(3), 4);
  EXPECT_EQ(output_ids(backend.run(next).back()).size(), 7u);
  EXPECT(next->success);
}

void queue_full() {
  executor::EngineConfig config;
  config.max_queue_size = 2;
  Backend backend(true, config);
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  int num_refused = 0;
  for (int i = 0; i < 12; ++i) {
    requests.push_back(make_request(prompt_of(3), 4));
    backend.send(requests.back());
  }
  backend.script->gate.open();
  for (const RequestPtr& request : requests) {
    const FakeAnswer& answer = backend.ended(request).back();
    if (!answer.error) continue;
    ++num_refused;
    EXPECT_EQ(answer.code, TRITONSERVER_ERROR_UNAVAILABLE);
    EXPECT_CONTAINS(*answer.error, "Maximum queue size of");
    EXPECT_CONTAINS(*answer.error, "Exceeds maximum queue size");
  }
  EXPECT(num_refused > 0);
}

void unloading_ends_what_is_live() {
  Backend backend;
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(make_request(prompt_of(3 + i), 40));
    requests.back()->flag("streaming", i % 2 == 0);
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(3);
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    backend.script->gate.open();
  });
  backend.state.reset();
  opener.join();
  for (const RequestPtr& request : requests) backend.ended(request);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"stop_by_id", stop_by_id},
          {"stop_by_engine_request_id", stop_by_engine_request_id},
          {"cancelled_by_the_client", cancelled_by_the_client},
          {"a_long_step_hides_no_cancellation", a_long_step_hides_no_cancellation},
          {"each_of_several_is_cancelled", each_of_several_is_cancelled},
          {"cancellations_are_looked_for_at_their_period",
           cancellations_are_looked_for_at_their_period},
          {"final_response_to_nobody_waits", final_response_to_nobody_waits},
          {"unloading_does_not_wait_for_nobody", unloading_does_not_wait_for_nobody},
          {"engine_failure_reaches_each_request", engine_failure_reaches_each_request},
          {"an_answer_that_cannot_be_put_together", an_answer_that_cannot_be_put_together},
          {"queue_full", queue_full},
          {"unloading_ends_what_is_live", unloading_ends_what_is_live},
      },
      argc, argv);
}
