// Optional outputs: counts of tokens, perf metrics, why a sequence ended.
#include <chrono>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

template <typename T>
T number(const FakeAnswer& answer, const char* name) {
  const FakeTensor* tensor = answer.find(name);
  if (tensor == nullptr) {
    fail(__FILE__, __LINE__, name, " is missing");
    return T(-1);
  }
  EXPECT((tensor->shape == std::vector<int64_t>{1, 1}));
  return tensor->values<T>().at(0);
}

/// Of a STRING of one element: 4 bytes of length, then the characters.
std::string text(const FakeAnswer& answer, const char* name) {
  const FakeTensor* tensor = answer.find(name);
  if (tensor == nullptr) return "(missing)";
  EXPECT((tensor->shape == std::vector<int64_t>{1, 1}));
  EXPECT_EQ(tensor->type, TRITONSERVER_TYPE_BYTES);
  uint32_t length = 0;
  std::memcpy(&length, tensor->bytes.data(), sizeof(length));
  EXPECT_EQ(tensor->bytes.size(), sizeof(length) + length);
  return std::string(tensor->bytes.begin() + sizeof(length), tensor->bytes.end());
}

void token_counts() {
  Backend backend;
  for (const bool exclude : {false, true}) {
    const RequestPtr request = make_request(prompt_of(5), 7);
    request->flag("return_num_input_tokens", true).flag("return_num_output_tokens", true);
    request->flag("exclude_input_in_output", exclude);
    const FakeAnswer& answer = backend.run(request)[0];
    EXPECT_EQ(number<int32_t>(answer, "num_input_tokens"), 5);
    EXPECT_EQ(number<int32_t>(answer, "num_output_tokens"), exclude ? 7 : 12);
  }
  const RequestPtr streamed = make_request(prompt_of(5), 7);
  streamed->flag("return_num_output_tokens", true).flag("streaming", true);
  int sum = 0;
  for (const FakeAnswer& answer : backend.run(streamed)) {
    EXPECT_EQ(number<int32_t>(answer, "num_output_tokens"),
              static_cast<int32_t>(output_ids(answer).size()));
    EXPECT(answer.find("num_input_tokens") == nullptr);
    sum += number<int32_t>(answer, "num_output_tokens");
  }
  EXPECT_EQ(sum, 7);
}

void perf_metrics() {
  using std::chrono::duration_cast, std::chrono::nanoseconds, std::chrono::system_clock;
  const auto unix_ns = [] {
    return duration_cast<nanoseconds>(system_clock::now().time_since_epoch()).count();
  };
  constexpr int64_t kSlack = 5'000'000;  // the clocks may be set in between
  for (const char* flag : {"return_perf_metrics", "return_kv_cache_reuse_stats"}) {
    Backend backend;
    const int64_t before = unix_ns();
    // Two chunks of prompt, 20 tokens in blocks of 4.
    const RequestPtr request = make_request(prompt_of(20), 6);
    request->flag(flag, true).flag("streaming", true);
    request->outputs = {"output_ids", "sequence_length"};  // they come nevertheless
    const auto& answers = backend.run(request);
    const int64_t after = unix_ns();
    int64_t last_token = 0;
    for (const FakeAnswer& answer : answers) {
      EXPECT_EQ(answer.outputs.size(), 12u);
      EXPECT_EQ(number<int32_t>(answer, "kv_cache_alloc_new_blocks"), 5);
      EXPECT_EQ(number<int32_t>(answer, "kv_cache_alloc_total_blocks"), 5);
      EXPECT_EQ(number<int32_t>(answer, "kv_cache_reused_blocks"), 0);
      EXPECT_EQ(number<float>(answer, "acceptance_rate"), 0.0f);
      EXPECT_EQ(number<int32_t>(answer, "total_accepted_draft_tokens"), 0);
      EXPECT_EQ(number<int32_t>(answer, "total_draft_tokens"), 0);
      const auto arrival = number<int64_t>(answer, "arrival_time_ns");
      const auto scheduled = number<int64_t>(answer, "first_scheduled_time_ns");
      const auto first = number<int64_t>(answer, "first_token_time_ns");
      EXPECT(before - kSlack <= arrival && arrival <= scheduled && scheduled <= first);
      EXPECT(number<int64_t>(answer, "last_token_time_ns") >= last_token);
      last_token = number<int64_t>(answer, "last_token_time_ns");
      EXPECT(first <= last_token && last_token <= after + kSlack);
      EXPECT_EQ(arrival, number<int64_t>(answers[0], "arrival_time_ns"));
      EXPECT_EQ(first, number<int64_t>(answers[0], "first_token_time_ns"));
    }
  }
}

void why_a_sequence_ended() {
  Backend backend;
  const Ids prompt = prompt_of(3);
  const Ids tokens = expected_tokens(prompt, 8);
  const auto reasons = [&](auto&& change) {
    const RequestPtr request = make_request(prompt, 8);
    request->flag("return_finish_reason", true).flag("return_stop_reason", true);
    change(*request);
    const auto& answers = backend.run(request);
    for (size_t i = 0; i + 1 < answers.size(); ++i) {
      EXPECT_EQ(text(answers[i], "finish_reason"), "");
      EXPECT_EQ(text(answers[i], "stop_reason"), "");
    }
    return text(answers.back(), "finish_reason") + "/" + text(answers.back(), "stop_reason");
  };
  using R = TRITONBACKEND_Request;
  for (const bool streaming : {false, true}) {
    EXPECT_EQ(reasons([&](R& r) { r.flag("streaming", streaming); }), "length/");
    EXPECT_EQ(reasons([&](R& r) { r.flag("streaming", streaming).number("end_id", tokens[4]); }),
              "stop/" + std::to_string(tokens[4]));
    EXPECT_EQ(reasons([&](R& r) {
                r.flag("streaming", streaming);
                r.add("stop_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 3},
                      Ids{7, tokens[2], tokens[3], 1, 3, -1});
              }),
              "stop/" + std::to_string(tokens[2]) + " " + std::to_string(tokens[3]));
  }
  const RequestPtr plain = make_request(prompt, 2);
  EXPECT(backend.run(plain)[0].find("finish_reason") == nullptr);
  EXPECT(plain->answers[0].find("stop_reason") == nullptr);
}

/// A client's stop is a cancellation; postprocessing's means that the text has its stop word.
void who_stopped_it() {
  for (const std::string who : {"client", "postprocessing"}) {
    Backend backend;
    backend.script->gate.close();
    const RequestPtr request = make_request(prompt_of(3), 40);
    request->id = "one";
    request->flag("streaming", true).flag("return_finish_reason", true);
    request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    backend.send(request);
    backend.script->gate.let_pass(3);
    request->wait_for_answers(1);
    const RequestPtr command = make_request({0}, 0);
    command->flag("stop", true);
    if (who == "client")
      command->id = "one";
    else
      command->add("engine_request_id", TRITONSERVER_TYPE_UINT64, {1},
                   std::vector<uint64_t>{static_cast<uint64_t>(engine_request_id(*request))});
    backend.run(command);
    backend.script->gate.open();
    EXPECT_EQ(text(backend.ended(request).back(), "finish_reason"),
              who == "client" ? "cancelled" : "stop");
  }
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"token_counts", token_counts},
          {"perf_metrics", perf_metrics},
          {"why_a_sequence_ended", why_a_sequence_ended},
          {"who_stopped_it", who_stopped_it},
      },
      argc, argv);
}
