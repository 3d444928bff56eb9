// Requests of several rows and several sequences: each answers for itself, and the last of them
// ends the request.
#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

/// Rows padded with 0 to the longest.
RequestPtr make_batch(const std::vector<Ids>& prompts, const Ids& output_lengths) {
  const auto rows = static_cast<int64_t>(prompts.size());
  size_t longest = 0;
  for (const Ids& prompt : prompts) longest = std::max(longest, prompt.size());
  Ids ids, lengths;
  for (const Ids& prompt : prompts) {
    lengths.push_back(static_cast<int32_t>(prompt.size()));
    ids.insert(ids.end(), prompt.begin(), prompt.end());
    ids.resize(ids.size() + longest - prompt.size(), 0);
  }
  RequestPtr request = make_request({1}, 1);
  request->inputs.clear();
  request->add("input_ids", TRITONSERVER_TYPE_INT32, {rows, static_cast<int64_t>(longest)}, ids);
  request->add("input_lengths", TRITONSERVER_TYPE_INT32, {rows}, lengths);
  request->add("request_output_len", TRITONSERVER_TYPE_INT32, {rows}, output_lengths);
  return request;
}

int32_t index_of(const FakeAnswer& answer, const char* name) {
  const FakeTensor* tensor = answer.find(name);
  if (tensor == nullptr) return -1;
  EXPECT((tensor->shape == std::vector<int64_t>{1, 1}));
  return tensor->values<int32_t>().at(0);
}

/// Ids by row and sequence, in order of arrival.
std::map<std::pair<int32_t, int32_t>, Ids> ids_by_index(const std::vector<FakeAnswer>& answers) {
  std::map<std::pair<int32_t, int32_t>, Ids> all;
  for (const FakeAnswer& answer : answers) {
    EXPECT(!answer.error.has_value());
    Ids& ids = all[{index_of(answer, "batch_index"), index_of(answer, "sequence_index")}];
    for (int32_t id : output_ids(answer)) ids.push_back(id);
  }
  return all;
}

void rows_answer_for_themselves() {
  const std::vector<Ids> prompts = {prompt_of(5), prompt_of(2, 3), prompt_of(9, 7)};
  const Ids lengths = {7, 12, 1};
  for (const bool streaming : {false, true}) {
    Backend backend;
    const RequestPtr request = make_batch(prompts, lengths);
    request->add("streaming", TRITONSERVER_TYPE_BOOL, {3}, std::vector<uint8_t>(3, streaming));
    request->add("exclude_input_in_output", TRITONSERVER_TYPE_BOOL, {3},
                 std::vector<uint8_t>{1, 1, 1});
    const auto& answers = backend.run(request);
    EXPECT(request->success);
    if (!streaming) EXPECT_EQ(answers.size(), 3u);
    EXPECT_EQ(std::ranges::count_if(answers, [](const auto& a) { return a.is_final; }), 1);
    EXPECT(answers.back().is_final);
    const auto ids = ids_by_index(answers);
    EXPECT_EQ(ids.size(), 3u);
    for (int32_t row = 0; row < 3; ++row)
      EXPECT((ids.at({row, -1}) == expected_tokens(prompts[row], lengths[row])));
  }
}

void every_option_is_of_its_row() {
  Backend backend;
  const Ids first = prompt_of(4), second = prompt_of(6, 5);
  const Ids tokens = expected_tokens(second, 10);
  const RequestPtr request = make_batch({first, second}, {10, 10});
  request->add("exclude_input_in_output", TRITONSERVER_TYPE_BOOL, {2}, std::vector<uint8_t>{0, 1});
  request->add("return_log_probs", TRITONSERVER_TYPE_BOOL, {2}, std::vector<uint8_t>{1, 0});
  request->add("end_id", TRITONSERVER_TYPE_INT32, {2}, Ids{-1, tokens[3]});
  // Row 0 has no words, row 1 a word of two ids, which end_id forestalls.
  request->add("stop_words_list", TRITONSERVER_TYPE_INT32, {2, 2, 2},
               Ids{0, 0, -1, -1, tokens[5], tokens[6], 2, -1});
  for (const FakeAnswer& answer : backend.run(request)) {
    if (index_of(answer, "batch_index") == 0) {
      Ids expected = first;
      for (int32_t id : expected_tokens(first, 10)) expected.push_back(id);
      EXPECT(output_ids(answer) == expected);
      EXPECT(answer.find("output_log_probs") != nullptr);
    } else {
      EXPECT(output_ids(answer) == Ids(tokens.begin(), tokens.begin() + 3));
      EXPECT(answer.find("output_log_probs") == nullptr);
    }
  }
}

void one_row_is_no_batch() {
  Backend backend;
  const RequestPtr request = make_batch({prompt_of(5)}, {3});
  request->inputs[1].tensor.bytes.assign(4, 0);  // input_lengths 0: it cuts rows of batches only
  const auto& answers = backend.run(request);
  EXPECT_EQ(answers.size(), 1u);
  EXPECT_EQ(output_ids(answers[0]).size(), 8u);
  EXPECT(answers[0].find("batch_index") == nullptr);
  EXPECT(answers[0].find("sequence_index") == nullptr);
}

void sequences_have_seeds_in_order() {
  for (const bool streaming : {false, true}) {
    Backend backend;
    std::mutex mutex;
    std::set<uint64_t> seeds;
    // The token shows the seed.
    backend.script->edit = [&](const decoding::SampleRow& row, decoding::SampledToken token) {
      std::lock_guard lock(mutex);
      seeds.insert(row.sampling->seed);
      token.id = static_cast<int32_t>(row.sampling->seed % 900 + row.generated_ids.size());
      return token;
    };
    const RequestPtr request = make_batch({prompt_of(3), prompt_of(4)}, {3, 2});
    request->add("num_return_sequences", TRITONSERVER_TYPE_INT32, {2}, Ids{3, 1});
    request->add("seed", TRITONSERVER_TYPE_UINT64, {2}, std::vector<uint64_t>{40, 100});
    request->add("runtime_top_k", TRITONSERVER_TYPE_INT32, {2}, Ids{5, 5});
    request->add("streaming", TRITONSERVER_TYPE_BOOL, {2}, std::vector<uint8_t>(2, streaming));
    request->add("exclude_input_in_output", TRITONSERVER_TYPE_BOOL, {2},
                 std::vector<uint8_t>(2, 1));
    const auto ids = ids_by_index(backend.run(request));
    EXPECT_EQ(ids.size(), 4u);
    for (int32_t i = 0; i < 3; ++i) EXPECT((ids.at({0, i}) == Ids{40 + i, 41 + i, 42 + i}));
    EXPECT((ids.at({1, -1}) == Ids{100, 101}));
    EXPECT((seeds == std::set<uint64_t>{40, 41, 42, 100}));
  }
}

void a_failed_row_is_an_error_of_its_own() {
  Backend backend;
  const Ids good = prompt_of(4);
  backend.script->edit = [](const decoding::SampleRow& row, decoding::SampledToken token) {
    if (row.prompt_ids.size() == 6) token.status = decoding::SampleStatus::kNanLogits;
    return token;
  };
  const RequestPtr request = make_batch({prompt_of(6), good}, {5, 5});
  const auto& answers = backend.run(request);
  EXPECT(!request->success);
  EXPECT_EQ(answers.size(), 2u);
  EXPECT_CONTAINS(answers[0].error.value_or(""), "Executor failed process requestId");
  EXPECT(!answers[0].is_final);
  EXPECT_EQ(index_of(answers[1], "batch_index"), 1);
  EXPECT_EQ(output_ids(answers[1]).size(), 9u);
}

void bad_rows_refuse_the_request() {
  Backend backend;
  const auto error_with = [&](auto&& change) {
    const RequestPtr request = make_batch({prompt_of(3), prompt_of(5)}, {2, 2});
    change(*request);
    const std::string error = backend.error_of(request);
    EXPECT_EQ(request->answers.size(), 1u);
    EXPECT_EQ(backend.script->num_steps.load(), 0);  // nothing of it ran
    return error;
  };
  using R = TRITONBACKEND_Request;
  const auto lengths = [](Ids values) {
    return [values](R& r) { std::memcpy(r.inputs[1].tensor.bytes.data(), values.data(), 8); };
  };
  EXPECT_CONTAINS(error_with(lengths({3, 6})),
                  "input_lengths[1] is 6, expected at least 1 and at most 5");
  EXPECT_CONTAINS(error_with(lengths({0, 5})), "input_lengths[0] is 0");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("temperature", TRITONSERVER_TYPE_FP32, {2},
                          std::vector<float>{1.0f, -1.0f});
                  }),
                  "temperature is -1");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("temperature", TRITONSERVER_TYPE_FP32, {1}, std::vector<float>{1.0f});
                  }),
                  "tensor temperature has 1 rows but input_ids has 2");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("temperature", TRITONSERVER_TYPE_FP32, {2, 2},
                          std::vector<float>{1.0f, 1.0f, 1.0f, 1.0f});
                  }),
                  "temperature: it has 2 elements, expected 1");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("num_return_sequences", TRITONSERVER_TYPE_INT32, {2}, Ids{1, 0});
                  }),
                  "num_return_sequences is 0; it must be at least 1");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("num_return_sequences", TRITONSERVER_TYPE_INT32, {2}, Ids{1, 1 << 30});
                  }),
                  "it must be at most 1024");
}

void several_need_decoupled() {
  Backend backend(/*decoupled=*/false);
  EXPECT_CONTAINS(backend.error_of(make_batch({prompt_of(3), prompt_of(3)}, {2, 2})),
                  "a batch of 2 rows needs a model with decoupled transactions");
  const RequestPtr request = make_request(prompt_of(3), 2);
  request->number("num_return_sequences", 2);
  EXPECT_CONTAINS(backend.error_of(request), "several sequences need a model with decoupled");
}

void all_rows_find_a_place_or_none() {
  executor::EngineConfig config;
  config.max_queue_size = 3;
  Backend backend(true, config);
  const std::string error =
      backend.error_of(make_batch(std::vector<Ids>(4, prompt_of(3)), {2, 2, 2, 2}));
  EXPECT_CONTAINS(error, "Maximum queue size of 3");
  EXPECT_CONTAINS(error, "4 more in this one");
  EXPECT_EQ(backend.script->num_steps.load(), 0);
  EXPECT_EQ(backend.run(make_batch(std::vector<Ids>(3, prompt_of(3)), {2, 2, 2})).size(), 3u);
}

/// A stop by id, a client that leaves, an unload: each ends all sequences, and the request once.
void ends_of_all_sequences() {
  for (const char* how : {"stop", "cancel", "client_left", "unload"}) {
    Backend backend;
    backend.script->gate.close();
    backend.script->after_step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
    const RequestPtr request = make_batch({prompt_of(3), prompt_of(4)}, {60, 60});
    request->id = "both";
    request->add("num_return_sequences", TRITONSERVER_TYPE_INT32, {2}, Ids{2, 2});
    request->add("streaming", TRITONSERVER_TYPE_BOOL, {2}, std::vector<uint8_t>(2, 1));
    request->add("text_context", TRITONSERVER_TYPE_UINT8, {2, 1}, std::vector<uint8_t>(2, 1));
    backend.send(request);
    backend.script->gate.let_pass(3);
    request->wait_for_answers(4);
    const std::string way = how;
    if (way == "stop") {
      const RequestPtr command = make_request({0}, 0);
      command->flag("stop", true);
      command->id = "both";
      backend.run(command);
    } else if (way == "client_left") {
      backend.state->client_left(static_cast<uint64_t>(engine_request_id(*request)));
    } else if (way == "cancel") {
      request->cancelled = true;
    }
    backend.script->gate.open();
    if (way == "unload") backend.state.reset();
    size_t num_ids = 0;
    for (const auto& [index, ids] : ids_by_index(backend.ended(request))) num_ids += ids.size();
    EXPECT(num_ids < 4 * 60u);
  }
}

/// Postprocessing ends one sequence, whose text is complete, by its number.
void one_sequence_may_end_alone() {
  Backend backend;
  backend.script->gate.close();
  const RequestPtr request = make_batch({prompt_of(3), prompt_of(4, 9)}, {30, 30});
  request->add("streaming", TRITONSERVER_TYPE_BOOL, {2}, std::vector<uint8_t>(2, 1));
  request->add("text_context", TRITONSERVER_TYPE_UINT8, {2, 1}, std::vector<uint8_t>(2, 1));
  backend.send(request);
  backend.script->gate.let_pass(3);
  request->wait_for_answers(2);
  int32_t row = -1;
  int64_t id = 0;
  {
    std::lock_guard lock(request->mutex);
    row = index_of(request->answers[0], "batch_index");
    id = request->answers[0].find("response_state")->values<int64_t>()[0];
  }
  const RequestPtr command = make_request({0}, 0);
  command->flag("stop", true);
  command->add("engine_request_id", TRITONSERVER_TYPE_UINT64, {1},
               std::vector<uint64_t>{static_cast<uint64_t>(id)});
  backend.run(command);
  backend.script->gate.open();
  const auto ids = ids_by_index(backend.ended(request));
  EXPECT(ids.at({row, -1}).size() < 30u);
  const Ids other = row == 0 ? prompt_of(4, 9) : prompt_of(3);
  EXPECT((ids.at({1 - row, -1}) == expected_tokens(other, 30)));
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"rows_answer_for_themselves", rows_answer_for_themselves},
          {"every_option_is_of_its_row", every_option_is_of_its_row},
          {"one_row_is_no_batch", one_row_is_no_batch},
          {"sequences_have_seeds_in_order", sequences_have_seeds_in_order},
          {"a_failed_row_is_an_error_of_its_own", a_failed_row_is_an_error_of_its_own},
          {"bad_rows_refuse_the_request", bad_rows_refuse_the_request},
          {"several_need_decoupled", several_need_decoupled},
          {"all_rows_find_a_place_or_none", all_rows_find_a_place_or_none},
          {"ends_of_all_sequences", ends_of_all_sequences},
          {"one_sequence_may_end_alone", one_sequence_may_end_alone},
      },
      argc, argv);
}
