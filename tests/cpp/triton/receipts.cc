// Streams whose reader tells how far it is (postprocessing): what their parts carry, and how these
// join while it is busy.
#include <algorithm>
#include <cstdio>

#include "tests/cpp/triton/stepped_backend.h"

namespace inflight::testing {
namespace {

void tells_postprocessing_what_it_needs() {
  Backend backend;
  const Ids prompt = prompt_of(4);
  const RequestPtr request = make_request(prompt, 6);
  request->flag("streaming", true);
  request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 3}, std::vector<uint8_t>{'a', 'b', 0});
  Ids sent;
  int64_t id = 0;
  for (const FakeAnswer& answer : backend.run(request)) {
    EXPECT((answer.find("text_context")->values<uint8_t>() == std::vector<uint8_t>{'a', 'b', 0}));
    EXPECT(answer.find("previous_ids")->values<int32_t>() == sent);
    const auto state = answer.find("response_state")->values<int64_t>();
    const Ids ids = output_ids(answer);
    EXPECT_EQ(state.size(), 3u);
    EXPECT(state[0] > 0 && (id == 0 || id == state[0]));
    id = state[0];
    EXPECT_EQ(state[1] == 1, answer.is_final);
    EXPECT_EQ(state[2], static_cast<int64_t>(ids.size()));
    sent.insert(sent.end(), ids.begin(), ids.end());
  }
  const RequestPtr whole = make_request(prompt, 6);
  whole->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{'a'});
  const FakeAnswer& answer = backend.run(whole)[0];
  EXPECT(answer.find("previous_ids")->values<int32_t>().empty());
  const auto state = answer.find("response_state")->values<int64_t>();
  EXPECT_EQ(state[2], 6);
}

/// What postprocessing does, by inflight/serving/receipts.py.
void tell(int64_t public_id, uint32_t num_ids) {
  const auto number = static_cast<uint64_t>(public_id) >> 32;
  const uint64_t id = static_cast<uint64_t>(public_id) & 0xffffffff;
  char path[64];
  std::snprintf(path, sizeof(path), "/dev/shm/inflight-%llx",
                static_cast<unsigned long long>(number));
  std::FILE* page = std::fopen(path, "r+b");
  EXPECT(page != nullptr);
  if (page == nullptr) return;
  std::fseek(page, 0, SEEK_END);
  const uint64_t num_slots = static_cast<uint64_t>(std::ftell(page)) / 8;
  std::fseek(page, static_cast<int64_t>(id % num_slots * 8), SEEK_SET);
  const uint64_t slot = id << 32 | num_ids;
  EXPECT_EQ(std::fwrite(&slot, sizeof(slot), 1, page), 1u);
  std::fclose(page);
}

using Counts = std::vector<size_t>;

/// Ids of the responses that have come.
Counts num_ids(TRITONBACKEND_Request& request) {
  std::lock_guard lock(request.mutex);
  Counts counts;
  for (const FakeAnswer& answer : request.answers) counts.push_back(output_ids(answer).size());
  return counts;
}

/// Those whose log-probabilities it has, as the script below makes them.
Ids log_prob_ids(const FakeAnswer& answer) {
  Ids ids;
  for (float log_prob : answer.find("output_log_probs")->values<float>())
    ids.push_back(static_cast<int32_t>(-2.0f * log_prob));
  return ids;
}

/// By its generation logits, row by row.
Ids likeliest_ids(const FakeAnswer& answer) {
  const auto logits = answer.find("generation_logits")->values<float>();
  Ids ids;
  for (auto row = logits.begin(); row < logits.end(); row += kVocabSize)
    ids.push_back(static_cast<int32_t>(std::max_element(row, row + kVocabSize) - row));
  return ids;
}

void pieces_join_while_the_last_waits_for_postprocessing() {
  SteppedBackend backend;
  backend.script->edit = [](const decoding::SampleRow&, decoding::SampledToken token) {
    token.log_prob = -0.5f * static_cast<float>(token.id);
    return token;
  };
  const Ids prompt = prompt_of(3);
  const RequestPtr request = make_request(prompt, 12);
  request->flag("streaming", true);
  request->flag("return_log_probs", true).flag("return_generation_logits", true);
  request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
  backend.send(request);
  backend.run_steps(3);  // nobody has ever told: nothing to wait for
  EXPECT((num_ids(*request) == Counts{1, 1, 1}));
  const int64_t id = engine_request_id(*request);
  tell(id, 1);
  backend.run_steps(3);
  EXPECT((num_ids(*request) == Counts{1, 1, 1}));
  tell(id, 3);
  backend.run_steps(2);  // the first of these takes along what waited
  EXPECT((num_ids(*request) == Counts{1, 1, 1, 4}));
  backend.script->gate.open();
  const auto& answers = backend.ended(request);
  EXPECT((num_ids(*request) == Counts{1, 1, 1, 4, 5}));
  EXPECT(joined(answers) == expected_tokens(prompt, 12));
  EXPECT_EQ(answers[3].find("previous_ids")->values<int32_t>().size(), 3u);
  EXPECT_EQ(answers[4].find("previous_ids")->values<int32_t>().size(), 7u);
  for (const FakeAnswer& answer : answers) {
    const Ids ids = output_ids(answer);
    EXPECT(log_prob_ids(answer) == ids);
    EXPECT(likeliest_ids(answer) == ids);
  }
  backend.close();
  char path[64];
  std::snprintf(path, sizeof(path), "/dev/shm/inflight-%llx",
                static_cast<unsigned long long>(id >> 32));
  EXPECT(std::fopen(path, "rb") == nullptr);
}

void a_reader_that_never_told_is_not_waited_for() {
  SteppedBackend backend;
  const auto stream = [&](bool is_postprocessing) {
    RequestPtr request = make_request(prompt_of(3), 40);
    request->flag("streaming", true);
    request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    if (!is_postprocessing) request->outputs = {"output_ids", "sequence_length", "response_state"};
    backend.send(request);
    return request;
  };
  const RequestPtr first = stream(true), text = stream(true), elsewhere = stream(false);
  backend.run_steps(3);
  tell(engine_request_id(*first), static_cast<uint32_t>(num_ids(*first).size()));
  backend.run_steps(2);  // postprocessing is there, as the first of these finds
  const size_t num_text = num_ids(*text).size(), num_sent = num_ids(*elsewhere).size();
  backend.run_steps(2);
  EXPECT_EQ(num_ids(*text).size(), num_text);
  EXPECT((num_ids(*elsewhere) == Counts(num_sent + 2, 1)));
  // Who can tell is waited for.
  tell(engine_request_id(*elsewhere), static_cast<uint32_t>(num_sent));
  backend.run_steps(2);
  EXPECT_EQ(num_ids(*elsewhere).size(), num_sent + 2);
  tell(engine_request_id(*elsewhere), static_cast<uint32_t>(num_sent + 2));
  backend.run_steps(1);
  EXPECT_EQ(num_ids(*elsewhere).size(), num_sent + 3);
  EXPECT_EQ(num_ids(*elsewhere).back(), 3u);
  backend.script->gate.open();
  for (const RequestPtr* request : {&first, &text, &elsewhere}) backend.ended(*request);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"tells_postprocessing_what_it_needs", tells_postprocessing_what_it_needs},
          {"pieces_join_while_the_last_waits_for_postprocessing",
           pieces_join_while_the_last_waits_for_postprocessing},
          {"a_reader_that_never_told_is_not_waited_for",
           a_reader_that_never_told_is_not_waited_for},
      },
      argc, argv);
}
