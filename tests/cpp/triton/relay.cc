// The ensemble's relay: what it hands on, and that the engine hears through it of a client that has
// left. The test is the ensemble: it makes a relay's request of each response of the engine, and
// marks it as cancelled, as a server does with the steps that it schedules after the cancellation.
#include <algorithm>
#include <chrono>
#include <thread>

#include "backend/triton/departures.h"
#include "backend/triton/relay_instance.h"
#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

size_t num_answers(TRITONBACKEND_Request& request) {
  std::lock_guard lock(request.mutex);
  return request.answers.size();
}

struct Ensemble {
  explicit Ensemble(bool decoupled = true) : backend(decoupled) {
    departures.listen(backend.state->id_base(),
                      [this](uint64_t public_id) { backend.state->client_left(public_id); });
  }
  ~Ensemble() { departures.forget(backend.state->id_base()); }

  RequestPtr make_request(const Ids& prompt, int length, bool streaming) const {
    RequestPtr request = testing::make_request(prompt, length);
    request->flag("streaming", streaming);
    request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    request->outputs.push_back("heartbeat");
    return request;
  }

  /// Lets the engine make steps, far enough apart for heartbeats, until the request has `count`
  /// responses. Answers how many steps there were in all.
  int run_steps_until(TRITONBACKEND_Request& request, size_t count) {
    while (num_answers(request) < count) {
      std::this_thread::sleep_for(std::chrono::milliseconds(6));
      backend.script->gate.let_pass(1);
      backend.script->gate.wait_for_arrivals(++num_steps + 1);
      const auto a_while = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
      while (num_answers(request) < count && std::chrono::steady_clock::now() < a_while)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return num_steps;
  }

  /// What the relay answers to a response of the engine.
  std::vector<FakeAnswer> relayed(const FakeAnswer& said, bool cancelled) {
    TRITONBACKEND_Request request;
    for (const FakeTensor& output : said.outputs) {
      request.inputs.push_back({output});
      if (output.name != "heartbeat") request.outputs.push_back(output.name);
    }
    request.cancelled = cancelled;
    TRITONBACKEND_Request* pointer = &request;
    relay.execute(&pointer, 1);
    EXPECT_EQ(request.num_released, 1);
    EXPECT_EQ(request.num_finals, 1);
    EXPECT(request.success);
    return request.answers;
  }

  Backend backend;
  triton::Departures departures;
  triton::RelayInstance relay{nullptr, departures};
  int num_steps = 0;
};

FakeAnswer answer_of(TRITONBACKEND_Request& request, size_t index) {
  std::lock_guard lock(request.mutex);
  return request.answers.at(index);
}

bool is_heartbeat(const FakeAnswer& answer) { return answer.find("heartbeat") != nullptr; }

void hands_on_what_the_engine_says() {
  Ensemble ensemble;
  const RequestPtr request = ensemble.make_request(prompt_of(3), 4, /*streaming=*/true);
  request->flag("return_log_probs", true);
  for (const FakeAnswer& said : ensemble.backend.run(request)) {
    if (is_heartbeat(said)) continue;
    const auto answers = ensemble.relayed(said, /*cancelled=*/false);
    EXPECT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers[0].outputs.size(), said.outputs.size());
    for (const FakeTensor& tensor : said.outputs) {
      const FakeTensor* handed_on = answers[0].find(tensor.name);
      EXPECT(handed_on != nullptr && handed_on->type == tensor.type &&
             handed_on->shape == tensor.shape && handed_on->bytes == tensor.bytes);
    }
  }
}

/// They hold the number of the sequence alone, and the relay answers nothing to them.
void heartbeats_while_there_is_nothing_to_say() {
  for (const bool decoupled : {false, true}) {
    Ensemble ensemble(decoupled);
    ensemble.backend.script->gate.close();
    const RequestPtr request = ensemble.make_request(prompt_of(3), 60, /*streaming=*/false);
    ensemble.backend.send(request);
    ensemble.run_steps_until(*request, 3);
    for (size_t i = 0; i < 3; ++i) {
      const FakeAnswer said = answer_of(*request, i);
      EXPECT(is_heartbeat(said) && said.outputs.size() == 1u && !said.is_final);
      EXPECT(ensemble.relayed(said, /*cancelled=*/false).empty());
    }
    ensemble.backend.script->gate.open();
    const auto& answers = ensemble.backend.ended(request);
    EXPECT_EQ(std::ranges::count_if(answers, is_heartbeat),
              static_cast<ptrdiff_t>(answers.size()) - 1);
    EXPECT_EQ(output_ids(answers.back()).size(), 63u);
  }
}

void nobody_else_gets_heartbeats() {
  Ensemble ensemble;
  ensemble.backend.script->gate.close();
  const RequestPtr by_bls = make_request(prompt_of(3), 60);
  by_bls->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
  const RequestPtr by_hand = make_request(prompt_of(3), 60);
  by_hand->outputs.push_back("heartbeat");
  const RequestPtr by_ensemble = ensemble.make_request(prompt_of(3), 60, /*streaming=*/false);
  for (const RequestPtr* request : {&by_bls, &by_hand, &by_ensemble})
    ensemble.backend.send(*request);
  ensemble.run_steps_until(*by_ensemble, 3);
  ensemble.backend.script->gate.open();
  EXPECT_EQ(ensemble.backend.ended(by_bls).size(), 1u);
  EXPECT_EQ(ensemble.backend.ended(by_hand).size(), 1u);
  ensemble.backend.ended(by_ensemble);
}

/// By the first response after the cancellation, whatever it is; one step may have begun before.
void a_client_that_left_ends_the_request() {
  for (const bool streaming : {false, true}) {
    Ensemble ensemble;
    ensemble.backend.script->gate.close();
    const RequestPtr gone = ensemble.make_request(prompt_of(3), 60, streaming);
    const RequestPtr other = ensemble.make_request(prompt_of(4), 40, streaming);
    ensemble.backend.send(gone);
    ensemble.backend.send(other);
    ensemble.run_steps_until(*gone, 2);
    const size_t next = num_answers(*gone);
    const int num_steps = ensemble.run_steps_until(*gone, next + 1);
    EXPECT(ensemble.relayed(answer_of(*gone, next), /*cancelled=*/true).size() <= 1u);
    ensemble.backend.script->gate.open();
    const size_t num_ids = joined(ensemble.backend.ended(gone)).size();
    EXPECT(num_ids <= (streaming ? 0u : 3u) + static_cast<size_t>(num_steps) + 1);
    EXPECT_EQ(joined(ensemble.backend.ended(other)).size(), (streaming ? 0u : 4u) + 40u);
  }
}

/// Heartbeats go out while a step goes on, so that step is the last.
void a_long_step_hides_no_client_that_left() {
  Ensemble ensemble;
  ensemble.backend.script->gate.close();
  const RequestPtr gone = ensemble.make_request(prompt_of(3), 60, /*streaming=*/true);
  ensemble.backend.send(gone);
  ensemble.backend.script->gate.wait_for_arrivals(1);
  gone->wait_for_answers(1);
  const FakeAnswer said = answer_of(*gone, 0);
  EXPECT(is_heartbeat(said));
  EXPECT(ensemble.relayed(said, /*cancelled=*/true).empty());
  ensemble.backend.script->gate.open();
  ensemble.backend.ended(gone);
  EXPECT_EQ(ensemble.backend.script->num_steps.load(), 1);
}

/// All its sequences, whichever of them said so, and those that wait for their turn.
void a_client_that_left_ends_every_sequence() {
  Ensemble ensemble;
  ensemble.backend.script->gate.close();
  const RequestPtr gone = ensemble.make_request(prompt_of(3), 50, /*streaming=*/false);
  gone->number("num_return_sequences", 6);  // four run at once
  ensemble.backend.send(gone);
  const int num_steps = ensemble.run_steps_until(*gone, 1);
  EXPECT(ensemble.relayed(answer_of(*gone, 0), /*cancelled=*/true).empty());
  ensemble.backend.script->gate.open();
  ensemble.backend.ended(gone);
  EXPECT(ensemble.backend.script->num_steps.load() <= num_steps + 2);
}

/// The ensemble that fails while a step of it runs is kept by the server for good: it hears of a
/// failure when no sequence runs any more, a while after what was said before, and of nothing else.
void a_failure_is_the_last_that_an_ensemble_hears() {
  using Clock = std::chrono::steady_clock;
  for (const bool streaming : {false, true}) {
    Ensemble ensemble;
    ensemble.backend.script->gate.close();
    const RequestPtr request = ensemble.make_request(prompt_of(3), 50, streaming);
    request->number("num_return_sequences", 6);  // four run at once
    request->number("timeout_ms", 150);
    ensemble.backend.send(request);
    ensemble.run_steps_until(*request, 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    ensemble.backend.script->gate.open();
    const auto begin = Clock::now();
    const auto& answers = ensemble.backend.ended(request);
    EXPECT(Clock::now() - begin > triton::kQuietTime / 2);
    EXPECT(std::ranges::count_if(answers, [](const auto& one) { return bool(one.error); }) == 1);
    EXPECT_CONTAINS(answers.back().error.value_or(""), "timeout");
    EXPECT(!request->success);
  }
}

/// Alone, with nothing said before, there is nothing to wait for; and who is no ensemble hears of
/// each sequence what there is.
void others_hear_of_each_sequence() {
  Ensemble ensemble;
  ensemble.backend.script->gate.close();
  const RequestPtr request = make_request(prompt_of(3), 50);
  request->number("num_return_sequences", 6);
  request->number("timeout_ms", 100);
  ensemble.backend.send(request);
  ensemble.backend.script->gate.let_pass(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  ensemble.backend.script->gate.open();
  const auto& answers = ensemble.backend.ended(request);
  EXPECT_EQ(answers.size(), 6u);
  EXPECT(std::ranges::count_if(answers, [](const auto& one) { return bool(one.error); }) == 2);
}

void departures_of_models_that_are_gone() {
  Ensemble ensemble;
  FakeAnswer said;
  said.outputs.push_back(
      {"heartbeat", TRITONSERVER_TYPE_INT64, {1, 1}, std::vector<uint8_t>(8, 7)});
  EXPECT(ensemble.relayed(said, /*cancelled=*/true).empty());
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"hands_on_what_the_engine_says", hands_on_what_the_engine_says},
          {"heartbeats_while_there_is_nothing_to_say", heartbeats_while_there_is_nothing_to_say},
          {"nobody_else_gets_heartbeats", nobody_else_gets_heartbeats},
          {"a_client_that_left_ends_the_request", a_client_that_left_ends_the_request},
          {"a_long_step_hides_no_client_that_left", a_long_step_hides_no_client_that_left},
          {"a_client_that_left_ends_every_sequence", a_client_that_left_ends_every_sequence},
          {"a_failure_is_the_last_that_an_ensemble_hears",
           a_failure_is_the_last_that_an_ensemble_hears},
          {"others_hear_of_each_sequence", others_hear_of_each_sequence},
          {"departures_of_models_that_are_gone", departures_of_models_that_are_gone},
      },
      argc, argv);
}
