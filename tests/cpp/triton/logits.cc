// Logits as outputs: their shapes, types and when they are there.
#include <memory>
#include <string>
#include <vector>

#include "backend/triton/response_writer.h"
#include "backend/triton/triton_error.h"
#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

using Shape = std::vector<int64_t>;

/// Of scripted logits, 1 at the token that comes next: row by row.
template <typename T>
Ids tokens_of(const FakeTensor& tensor, T one) {
  Ids tokens;
  const std::vector<T> values = tensor.values<T>();
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] == one) tokens.push_back(static_cast<int32_t>(i % kVocabSize));
  return tokens;
}

void of_a_whole_answer() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(7), 4);
  request->flag("return_context_logits", true).flag("return_generation_logits", true);
  const FakeAnswer& answer = backend.run(request).at(0);
  const FakeTensor* context = answer.find("context_logits");
  const FakeTensor* generation = answer.find("generation_logits");
  EXPECT((context->shape == Shape{1, 7, kVocabSize}));
  EXPECT((generation->shape == Shape{1, 1, 4, kVocabSize}));
  EXPECT_EQ(context->type, TRITONSERVER_TYPE_FP32);
  EXPECT(tokens_of(*generation, 1.0f) == expected_tokens(prompt_of(7), 4));
  const Ids after_each = tokens_of(*context, 1.0f);
  EXPECT_EQ(after_each.size(), 7u);
  EXPECT(Ids{after_each.back()} == expected_tokens(prompt_of(7), 1));
}

void of_a_stream() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(7), 4);
  request->flag("return_context_logits", true).flag("return_generation_logits", true);
  request->flag("streaming", true);
  Ids tokens;
  bool is_first = true;
  for (const FakeAnswer& answer : backend.run(request)) {
    const FakeTensor* context = answer.find("context_logits");
    EXPECT(context != nullptr);
    if (!is_first && !answer.is_final) {
      EXPECT((context->shape == Shape{1, 0, kVocabSize}));
    } else {
      EXPECT((context->shape == Shape{1, 7, kVocabSize}));
      EXPECT(Ids{tokens_of(*context, 1.0f).back()} == expected_tokens(prompt_of(7), 1));
    }
    is_first = false;
    const Ids ids = output_ids(answer);
    const FakeTensor* generation = answer.find("generation_logits");
    EXPECT(generation != nullptr);
    EXPECT((generation->shape == Shape{1, static_cast<int64_t>(ids.size()), 1, kVocabSize}));
    for (int32_t token : tokens_of(*generation, 1.0f)) tokens.push_back(token);
  }
  EXPECT(tokens == expected_tokens(prompt_of(7), 4));
}

/// Clients put them one upon another, so each response has as many rows: one.
void of_tokens_that_come_together() {
  TRITONBACKEND_Request request;
  TRITONBACKEND_ResponseFactory* factory = nullptr;
  EXPECT(TRITONBACKEND_ResponseFactoryNew(&factory, &request) == nullptr);
  executor::Request asked;
  asked.return_context_logits = asked.return_generation_logits = true;
  triton::ReplyOptions reply;
  reply.streaming = reply.log_probs = true;
  reply.vocab_size = 2;
  reply.outputs = {"output_ids",     "sequence_length",   "cum_log_probs", "output_log_probs",
                   "context_logits", "generation_logits", "finish_reason"};
  reply.finish_reason = true;
  const triton::Receipts receipts;
  triton::ResponseGroups groups([](executor::RequestId) {});
  triton::ResponseWriter writer(factory, reply, std::make_shared<const executor::Request>(asked),
                                receipts, groups);
  executor::Response part;
  part.token_ids = {5, 6, 7};
  part.log_probs = {{.chosen = -1.0f}, {.chosen = -2.0f}, {.chosen = -4.0f}};
  part.cumulative_log_prob = -7.0f;
  part.context_logits = {9, 8, 7, 6};
  part.generation_logits = {0, 1, 2, 3, 4, 5};
  EXPECT(writer.send(part, 1, /*ends_request=*/false));
  part.token_ids = {8, 9};
  part.log_probs = {{.chosen = -8.0f}, {.chosen = -16.0f}};
  part.cumulative_log_prob = -31.0f;
  part.context_logits.clear();
  part.generation_logits = {6, 7, 8, 9};
  part.is_final = true;
  part.finish_reason = executor::FinishReason::kLength;
  EXPECT(writer.send(part, 1, /*ends_request=*/true));
  triton::check_triton(TRITONBACKEND_ResponseFactoryDelete(factory), "ResponseFactoryDelete");

  using Floats = std::vector<float>;
  const Floats chosen = {-1, -2, -4, -8, -16}, sums = {-1, -3, -7, -15, -31};
  EXPECT_EQ(request.answers.size(), 5u);
  for (size_t i = 0; i < request.answers.size(); ++i) {
    const FakeAnswer& answer = request.answers[i];
    const auto number = static_cast<float>(2 * i);
    EXPECT(output_ids(answer) == Ids{5 + static_cast<int32_t>(i)});
    EXPECT(answer.find("output_log_probs")->values<float>() == Floats{chosen[i]});
    EXPECT(answer.find("cum_log_probs")->values<float>() == Floats{sums[i]});
    const Floats row = {number, number + 1};
    EXPECT((answer.find("generation_logits")->shape == Shape{1, 1, 1, 2}));
    EXPECT(answer.find("generation_logits")->values<float>() == row);
    const bool is_end = i == 0 || i == 4;
    EXPECT((answer.find("context_logits")->shape == Shape{1, is_end ? 2 : 0, 2}));
    EXPECT_EQ(answer.is_final, i == 4);
    EXPECT_EQ(answer.find("finish_reason")->bytes.size(), i == 4 ? 10u : 4u);
  }
}

void of_halves() {
  triton::ModelSettings settings;
  settings.reader.context_logits_are_fp16 = settings.reader.generation_logits_are_fp16 = true;
  Backend backend(true, {}, nullptr, settings);
  const RequestPtr request = make_request(prompt_of(3), 2);
  request->flag("return_context_logits", true).flag("return_generation_logits", true);
  const FakeAnswer& answer = backend.run(request).at(0);
  constexpr uint16_t kOne = 0x3c00;
  for (const char* name : {"context_logits", "generation_logits"})
    EXPECT_EQ(answer.find(name)->type, TRITONSERVER_TYPE_FP16);
  EXPECT(tokens_of(*answer.find("generation_logits"), kOne) == expected_tokens(prompt_of(3), 2));
  EXPECT_EQ(tokens_of(*answer.find("context_logits"), kOne).size(), 3u);
}

void only_where_asked() {
  Backend backend;
  const RequestPtr plain = make_request(prompt_of(3), 2);
  const RequestPtr one = make_request(prompt_of(3), 2);
  one->flag("return_generation_logits", true);
  const RequestPtr unlisted = make_request(prompt_of(3), 2);
  unlisted->flag("return_context_logits", true).outputs = {"output_ids", "sequence_length"};
  EXPECT(backend.run(plain)[0].find("generation_logits") == nullptr);
  EXPECT(backend.run(one)[0].find("context_logits") == nullptr);
  EXPECT(one->answers[0].find("generation_logits") != nullptr);
  EXPECT(backend.run(unlisted)[0].find("context_logits") == nullptr);
}

void of_parts_that_join() {
  // With a text context, parts wait for postprocessing and go out as one.
  Backend backend;
  const RequestPtr request = make_request(prompt_of(3), 30);
  request->flag("return_generation_logits", true).flag("streaming", true);
  request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 2}, std::vector<uint8_t>{'{', '}'});
  Ids tokens;
  for (const FakeAnswer& answer : backend.run(request)) {
    const FakeTensor* generation = answer.find("generation_logits");
    EXPECT_EQ(generation->shape[1], static_cast<int64_t>(output_ids(answer).size()));
    for (int32_t token : tokens_of(*generation, 1.0f)) tokens.push_back(token);
  }
  EXPECT(tokens == expected_tokens(prompt_of(3), 30));
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases({{"of_a_whole_answer", of_a_whole_answer},
                    {"of_a_stream", of_a_stream},
                    {"of_tokens_that_come_together", of_tokens_that_come_together},
                    {"of_halves", of_halves},
                    {"only_where_asked", only_where_asked},
                    {"of_parts_that_join", of_parts_that_join}},
                   argc, argv);
}
