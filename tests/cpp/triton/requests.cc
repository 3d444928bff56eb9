// Requests through reader, engine loop (over the scripted model) and writer, without a server.
#include <limits>
#include <numeric>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

void one_response_without_streaming() {
  for (const bool decoupled : {false, true}) {
    Backend backend(decoupled);
    const Ids prompt = prompt_of(5);
    const RequestPtr request = make_request(prompt, 7);
    const auto& answers = backend.run(request);
    EXPECT_EQ(answers.size(), 1u);
    Ids expected = prompt;
    for (int32_t id : expected_tokens(prompt, 7)) expected.push_back(id);
    EXPECT(output_ids(answers[0]) == expected);
    EXPECT_EQ(answers[0].outputs.size(), 2u);
    EXPECT_EQ(answers[0].outputs[0].name, "output_ids");
    EXPECT((answers[0].outputs[0].shape == std::vector<int64_t>{1, 1, 12}));
    EXPECT((answers[0].find("sequence_length")->shape == std::vector<int64_t>{1, 1}));
    EXPECT(answers[0].find("sequence_length")->values<int32_t>() == Ids{12});
    EXPECT(request->success);
  }
}

void prompt_left_out_on_demand() {
  Backend backend;
  const Ids prompt = prompt_of(5);
  const RequestPtr asked = make_request(prompt, 3);
  asked->flag("exclude_input_in_output", true);
  EXPECT(output_ids(backend.run(asked)[0]) == expected_tokens(prompt, 3));
}

void streams_new_tokens_only() {
  Backend backend;
  const Ids prompt = prompt_of(20);  // two steps of prompt
  const RequestPtr request = make_request(prompt, 9);
  request->flag("streaming", true);
  const auto& answers = backend.run(request);
  EXPECT(joined(answers) == expected_tokens(prompt, 9));
  for (const FakeAnswer& answer : answers) {
    const auto length = static_cast<int32_t>(output_ids(answer).size());
    EXPECT(answer.find("sequence_length")->values<int32_t>() == Ids{length});
  }
}

void log_probs_when_asked() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(4), 5);
  request->flag("return_log_probs", true);
  const FakeAnswer& answer = backend.run(request)[0];
  const auto each = answer.find("output_log_probs")->values<float>();
  EXPECT((answer.find("output_log_probs")->shape == std::vector<int64_t>{1, 1, 5}));
  EXPECT((answer.find("cum_log_probs")->shape == std::vector<int64_t>{1, 1}));
  const float sum = std::accumulate(each.begin(), each.end(), 0.0f);
  EXPECT(std::abs(answer.find("cum_log_probs")->values<float>()[0] - sum) < 1e-4f);
}

void log_probs_of_the_likeliest() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(4), 5);
  request->flag("return_log_probs", true);
  request->add("num_top_log_probs", TRITONSERVER_TYPE_INT32, {1, 1}, Ids{3});
  const FakeAnswer& answer = backend.run(request)[0];
  const auto ids = answer.find("top_log_prob_ids")->values<int32_t>();
  const auto values = answer.find("top_log_probs")->values<float>();
  EXPECT((answer.find("top_log_prob_ids")->shape == std::vector<int64_t>{1, 1, 5, 3}));
  EXPECT((answer.find("top_log_probs")->shape == std::vector<int64_t>{1, 1, 5, 3}));
  // The scripted engine tells none: the places are marked as empty.
  EXPECT(ids == Ids(15, -1));
  EXPECT(values == std::vector<float>(15, -std::numeric_limits<float>::infinity()));

  const RequestPtr alone = make_request(prompt_of(4), 2);
  alone->add("num_top_log_probs", TRITONSERVER_TYPE_INT32, {1, 1}, Ids{3});
  EXPECT_CONTAINS(backend.error_of(alone), "without return_log_probs");
  const RequestPtr negative = make_request(prompt_of(4), 2);
  negative->flag("return_log_probs", true);
  negative->add("num_top_log_probs", TRITONSERVER_TYPE_INT32, {1, 1}, Ids{-1});
  EXPECT_CONTAINS(backend.error_of(negative), "at least 0");
}

void only_outputs_asked_for() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(4), 2);
  request->flag("return_log_probs", true);
  request->outputs = {"sequence_length", "output_ids", "cum_log_probs"};
  const FakeAnswer& answer = backend.run(request)[0];
  EXPECT_EQ(answer.outputs.size(), 3u);
  EXPECT_EQ(answer.outputs[0].name, "output_ids");

  const RequestPtr without = make_request(prompt_of(4), 2);
  without->outputs = {"sequence_length"};
  EXPECT_CONTAINS(backend.error_of(without), "output_ids");
}

void tensors_in_pieces() {
  Backend backend;
  const Ids prompt = prompt_of(7);
  const RequestPtr request = make_request(prompt, 2);
  request->inputs[0].num_buffers = 3;
  EXPECT_EQ(output_ids(backend.run(request)[0]).size(), 9u);
}

void ends_and_words() {
  Backend backend;
  const Ids prompt = prompt_of(3);
  const Ids tokens = expected_tokens(prompt, 8);
  {
    const RequestPtr request = make_request(prompt, 8);
    request->flag("exclude_input_in_output", true).number("end_id", tokens[4]);
    EXPECT(output_ids(backend.run(request)[0]) == Ids(tokens.begin(), tokens.begin() + 4));
  }
  {
    const RequestPtr request = make_request(prompt, 8);
    request->flag("exclude_input_in_output", true);
    request->number("end_id", -1);
    // [7], [tokens 2, 3]
    request->add("stop_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 3},
                 Ids{7, tokens[2], tokens[3], 1, 3, -1});
    EXPECT(output_ids(backend.run(request)[0]) == Ids(tokens.begin(), tokens.begin() + 4));
  }
  {
    const RequestPtr request = make_request(prompt, 1);  // no words in three spellings
    request->add("stop_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 1}, Ids{0, -1});
    request->add("bad_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 0}, Ids{});
    EXPECT(!backend.run(request)[0].error.has_value());
  }
}

void bad_word_lists() {
  Backend backend;
  const auto error_for = [&](std::vector<int64_t> shape, const Ids& values) {
    const RequestPtr request = make_request(prompt_of(3), 2);
    request->add("stop_words_list", TRITONSERVER_TYPE_INT32, std::move(shape), values);
    return backend.error_of(request);
  };
  EXPECT_CONTAINS(error_for({1, 3}, {1, 2, 3}), "sparse list stop_words_list has 3 elements");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, 2, 1}), "increasing");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, 0, -1}), "increasing");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, 3, -1}), "offset 3 beyond its length of 2");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, -1, 2}), "after the first -1");
}

void refusals() {
  Backend backend;
  const auto error_with = [&](auto&& change) {
    const RequestPtr request = make_request(prompt_of(3), 2);
    change(*request);
    return backend.error_of(request);
  };
  using R = TRITONBACKEND_Request;
  EXPECT_CONTAINS(error_with([](R& r) { r.number("beam_width", 2); }),
                  "beam_width is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("embedding_bias", TRITONSERVER_TYPE_FP32, {1, 1001},
                          std::vector<float>(1001));
                  }),
                  "embedding_bias has 1001 values; it must have at most 1000");
  EXPECT_CONTAINS(error_with([](R& r) { r.real("runtime_top_p_decay", 0.0f); }),
                  "top_p_decay is 0; it must be greater than 0");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("no_repeat_ngram_size", -1); }),
                  "no_repeat_ngram_size is -1");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("guided_decoding_guide_type", TRITONSERVER_TYPE_BYTES, {1, 1},
                          std::vector<uint8_t>{4, 0, 0, 0, 'j', 's', 'o', 'n'});
                  }),
                  "guided_decoding_guide_type is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) { r.inputs[0].tensor.shape = {3, 1}; }),
                  "tensor input_lengths has 1 rows but input_ids has 3");
  EXPECT_CONTAINS(error_with([](R& r) { r.inputs[0].tensor.shape = {1, 4}; }),
                  "Invalid size for tensor input_ids: 12 bytes for shape [1, 4]");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("temperature", TRITONSERVER_TYPE_FP32, {1, 2},
                          std::vector<float>{1.0f, 1.0f});
                  }),
                  "temperature: it has 2 elements, expected 1");
  EXPECT_CONTAINS(error_with([](R& r) { r.real("temperature", -1.0f); }), "temperature");
  EXPECT_CONTAINS(error_with([](R& r) { r.real("runtime_top_p", 1.5f); }), "top_p");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("runtime_top_k", -4); }), "-4");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("end_id", 1000); }), "1000");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("min_tokens", 1).number("min_length", 2); }),
                  "min_tokens is 1 but min_length is 2");
  EXPECT_CONTAINS(error_with([](R& r) { r.inputs.pop_back(); }),
                  "request_output_len is not present in the request");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.inputs[0].tensor = {"input_ids", TRITONSERVER_TYPE_INT32, {1, 0}, {}};
                  }),
                  "input_ids");
  EXPECT_CONTAINS(backend.error_of(make_request(prompt_of(64), 2)), "64");
  EXPECT_CONTAINS(backend.error_of(make_request({1, 1000}, 2)), "1000");
  EXPECT_CONTAINS(backend.error_of(make_request({1}, 0)), "0");
  const RequestPtr fine = make_request(prompt_of(3), 2);
  EXPECT(!backend.run(fine)[0].error.has_value());
}

void defaults_of_the_refused() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(3), 2);
  request->number("beam_width", 1);
  request->flag("return_generation_logits", false);
  request->real("runtime_top_p", 0.0f).number("pad_id", 0).real("len_penalty", 2.0f);
  request->ids("decoder_input_ids", {0}).number("decoder_input_lengths", 1);
  request->add("embedding_bias", TRITONSERVER_TYPE_FP32, {1, 0}, std::vector<float>{});
  request->add("lora_task_id", TRITONSERVER_TYPE_UINT64, {1}, std::vector<uint64_t>{0});
  request->add("guided_decoding_guide", TRITONSERVER_TYPE_BYTES, {1, 1},
               std::vector<uint8_t>{0, 0, 0, 0});
  EXPECT(!backend.run(request)[0].error.has_value());
}

void streaming_needs_decoupled() {
  Backend backend(/*decoupled=*/false);
  const RequestPtr request = make_request(prompt_of(3), 2);
  request->flag("streaming", true);
  EXPECT_CONTAINS(backend.error_of(request), "decoupled");
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"one_response_without_streaming", one_response_without_streaming},
          {"prompt_left_out_on_demand", prompt_left_out_on_demand},
          {"streams_new_tokens_only", streams_new_tokens_only},
          {"log_probs_when_asked", log_probs_when_asked},
          {"log_probs_of_the_likeliest", log_probs_of_the_likeliest},
          {"only_outputs_asked_for", only_outputs_asked_for},
          {"tensors_in_pieces", tensors_in_pieces},
          {"ends_and_words", ends_and_words},
          {"bad_word_lists", bad_word_lists},
          {"refusals", refusals},
          {"defaults_of_the_refused", defaults_of_the_refused},
          {"streaming_needs_decoupled", streaming_needs_decoupled},
      },
      argc, argv);
}
