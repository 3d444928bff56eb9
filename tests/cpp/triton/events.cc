// Questions for the cache's events: answered once, or followed as they come.
#include <chrono>
#include <nlohmann/json.hpp>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
constexpr int kForLong = 60'000;  // ms, of a stream that something else ends

RequestPtr question_after(int64_t after) {
  RequestPtr question = make_request({0}, 0);
  question->add("kv_cache_events_after", TRITONSERVER_TYPE_INT64, {1, 1},
                std::vector<int64_t>{after});
  return question;
}

RequestPtr stream_after(int64_t after, int duration_ms) {
  RequestPtr question = question_after(after);
  question->flag("streaming", true).number("timeout_ms", duration_ms);
  return question;
}

/// A list of objects.
Json events_of(const FakeAnswer& answer) {
  EXPECT(!answer.error.has_value() && answer.outputs.size() == 1u);
  const FakeTensor* told = answer.find("kv_cache_events");
  EXPECT((told->shape == std::vector<int64_t>{1, 1}));
  return Json::parse(told->bytes.begin() + 4, told->bytes.end());
}

/// All that its responses tell.
Json all_events(const std::vector<FakeAnswer>& answers) {
  Json all = Json::array();
  for (const FakeAnswer& answer : answers)
    for (const Json& event : events_of(answer)) all.push_back(event);
  return all;
}

Json events_after(Backend& backend, int64_t after) {
  const RequestPtr question = question_after(after);
  const auto& answers = backend.run(question);
  EXPECT_EQ(answers.size(), 1u);
  return events_of(answers[0]);
}

executor::EngineConfig with_events() {
  executor::EngineConfig config;
  config.kv_cache_event_buffer_max_size = 100;
  return config;
}

void events_of_the_cache() {
  Backend backend(/*decoupled=*/false, with_events());
  const Ids prompt = prompt_of(9);  // two blocks and a token
  backend.run(make_request(prompt, 1));
  const Json all = events_after(backend, -1);
  EXPECT_EQ(all.size(), 2u);
  EXPECT(all[0]["data"]["type"] == "created");
  EXPECT(all[0]["data"]["num_blocks_per_cache_level"] == Json::array({64, 0}));
  const int64_t first = all[0]["event_id"];
  EXPECT(first > 1'700'000'000'000'000 && first < 9'007'199'254'740'992);  // microseconds
  EXPECT(all[1]["event_id"] == first + 1);
  const Json& stored = all[1]["data"];
  EXPECT(stored["type"] == "stored");
  EXPECT(stored["parent_hash"].is_null());
  EXPECT_EQ(stored["blocks"].size(), 2u);
  for (int i = 0; i < 8; ++i) {
    const Json token = stored["blocks"][i / 4]["tokens"][i % 4];
    const Json expected = {
        {"type", "unique_token"}, {"token_id", prompt[i]}, {"token_extra_id", 0}};
    EXPECT(token == expected);
  }

  EXPECT(events_after(backend, first) == Json::array({all[1]}));
  EXPECT(events_after(backend, first + 1) == Json::array());
  EXPECT(events_after(backend, -1) == all);                 // readers take nothing away
  EXPECT(events_after(backend, 3) == all);                  // of an earlier start
  EXPECT(events_after(backend, first + 1'000'000) == all);  // of a clock that was ahead

  // What comes now is told apart from what has been told, though it goes on from there.
  const RequestPtr longer = make_request(prompt_of(13), 1);
  longer->text("cache_salt", "salt");
  backend.run(longer);
  const Json salted = events_after(backend, first + 1);
  EXPECT_EQ(salted.size(), 1u);
  EXPECT(salted[0]["data"]["parent_hash"].is_number_unsigned());
  EXPECT(salted[0]["data"]["blocks"][0]["block_hash"] != stored["blocks"][0]["block_hash"]);
  backend.run(make_request(prompt_of(13), 1));
  const Json next = events_after(backend, first + 2);
  EXPECT_EQ(next.size(), 1u);
  EXPECT(next[0]["data"]["parent_hash"] == stored["blocks"][1]["block_hash"]);
}

void events_must_be_asked_for() {
  Backend backend;
  const RequestPtr once = question_after(-1), followed = stream_after(-1, kForLong);
  for (const RequestPtr* question : {&once, &followed})
    EXPECT_CONTAINS(backend.error_of(*question),
                    "kv_cache_event_buffer_max_size is 0: no events are kept");
  EXPECT_EQ(fake_counts().dropped.load(), 0);
}

void a_stream_tells_what_comes() {
  Backend backend(/*decoupled=*/true, with_events());
  backend.run(make_request(prompt_of(9), 1));
  const RequestPtr follower = stream_after(-1, kForLong), late = stream_after(-1, kForLong);
  follower->id = late->id = "router";
  backend.send(follower);
  follower->wait_for_answers(1);
  for (int length = 13; length <= 25; length += 4) {
    const size_t told = [&] {
      std::lock_guard lock(follower->mutex);
      return follower->answers.size();
    }();
    backend.run(make_request(prompt_of(length), 1));
    follower->wait_for_answers(told + 1);
  }
  backend.send(late);
  late->wait_for_answers(1);
  const RequestPtr command = make_request({0}, 0);
  command->id = "router";
  command->flag("stop", true);
  backend.run(command);
  const Json all = events_after(backend, -1);
  for (const RequestPtr* each : {&follower, &late}) {
    const auto& answers = backend.ended(*each);
    EXPECT((*each)->success);
    EXPECT(all_events(answers) == all);
    for (const FakeAnswer& answer : answers) EXPECT_EQ(answer.is_final, &answer == &answers.back());
  }
  EXPECT_EQ(late->answers.size(), 2u);  // what there is at once, and its end
}

void a_stream_ends_at_its_time() {
  Backend backend(/*decoupled=*/true, with_events());
  const Clock::time_point begin = Clock::now();
  const RequestPtr request = stream_after(-1, 120);
  const auto& answers = backend.run(request);
  EXPECT(Clock::now() - begin >= std::chrono::milliseconds(120));
  EXPECT_EQ(answers.size(), 2u);
  EXPECT(all_events(answers) == events_after(backend, -1));
}

void a_client_that_leaves_ends_its_stream() {
  Backend backend(/*decoupled=*/true, with_events());
  const RequestPtr leaves = stream_after(-1, kForLong), stays = stream_after(-1, 300);
  backend.send(leaves);
  backend.send(stays);
  leaves->cancelled = true;
  backend.ended(leaves);
  EXPECT(all_events(backend.ended(stays)) == events_after(backend, -1));
}

void an_instance_that_goes_ends_its_streams() {
  Backend backend(/*decoupled=*/true, with_events());
  const RequestPtr request = stream_after(-1, kForLong);
  backend.send(request);
  backend.close();
  EXPECT(!backend.ended(request).back().error.has_value());
}

void an_engine_that_dies_ends_its_streams() {
  fake_refuse_unloads(true);
  Backend backend(/*decoupled=*/true, with_events());
  const RequestPtr request = stream_after(-1, kForLong);
  backend.send(request);
  backend.script->usable = false;
  backend.script->fail_at_step = 0;
  backend.error_of(make_request(prompt_of(3), 20));
  const FakeAnswer& last = backend.ended(request).back();
  EXPECT_CONTAINS(last.error.value_or(""), "the engine has died");
  EXPECT_EQ(last.code, TRITONSERVER_ERROR_UNAVAILABLE);
}

void streams_that_are_refused() {
  {
    Backend backend(/*decoupled=*/true, with_events());
    for (const int duration_ms : {0, -5, 60'001})
      EXPECT_CONTAINS(backend.error_of(stream_after(-1, duration_ms)),
                      "a stream of cache events lasts at least 1 and at most 60000");
  }
  Backend not_decoupled(/*decoupled=*/false, with_events());
  EXPECT_CONTAINS(not_decoupled.error_of(stream_after(-1, 100)), "needs a model with decoupled");
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"events_of_the_cache", events_of_the_cache},
          {"events_must_be_asked_for", events_must_be_asked_for},
          {"a_stream_tells_what_comes", a_stream_tells_what_comes},
          {"a_stream_ends_at_its_time", a_stream_ends_at_its_time},
          {"a_client_that_leaves_ends_its_stream", a_client_that_leaves_ends_its_stream},
          {"an_instance_that_goes_ends_its_streams", an_instance_that_goes_ends_its_streams},
          {"an_engine_that_dies_ends_its_streams", an_engine_that_dies_ends_its_streams},
          {"streams_that_are_refused", streams_that_are_refused},
      },
      argc, argv);
}
