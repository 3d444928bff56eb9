// Logits of prompts and of generated tokens, over the scripted model: the rows that a step gives
// out are those of the right tokens, whatever the chunks, the batch and what overlaps.
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

/// The token that each row of scripted logits stands for.
std::vector<int32_t> tokens_of(const std::vector<float>& logits) {
  std::vector<int32_t> tokens;
  for (size_t row = 0; row < logits.size() / kVocabSize; ++row) {
    const auto begin = logits.begin() + static_cast<ptrdiff_t>(row * kVocabSize);
    tokens.push_back(static_cast<int32_t>(std::max_element(begin, begin + kVocabSize) - begin));
  }
  return tokens;
}

/// What comes after each token of the prompt.
std::vector<int32_t> tokens_after(const std::vector<int32_t>& prompt) {
  std::vector<int32_t> tokens;
  for (size_t length = 1; length <= prompt.size(); ++length)
    tokens.push_back(next_token(std::span(prompt).first(length)));
  return tokens;
}

void of_prompts_and_tokens() {
  for (int max_num_tokens : {1, 4, 7, 64}) {
    for (int max_batch_size : {1, 3, 8}) {
      for (bool chunked : {true, false}) {
        EngineInfo info = small_info();
        info.max_num_tokens = max_num_tokens;
        info.max_batch_size = max_batch_size;
        EngineConfig config;
        config.enable_chunked_context = chunked || max_num_tokens < 64;
        Fixture fixture(info, config);
        std::vector<std::unique_ptr<Answer>> answers;
        for (int i = 0; i < 12; ++i) {
          Request request;
          request.input_ids = prompt_of(1 + i * 4, i);
          request.stop.max_new_tokens = 1 + i;
          request.return_context_logits = i % 3 != 0;
          request.return_generation_logits = i % 4 != 0;
          answers.push_back(std::make_unique<Answer>());
          fixture.submit(*answers[i], std::move(request));
        }
        for (int i = 0; i < 12; ++i) {
          const executor::Response& last = answers[i]->wait();
          EXPECT(!last.error);
          const std::vector<int32_t> prompt = prompt_of(1 + i * 4, i), none;
          EXPECT(last.token_ids == expected_tokens(prompt, 1 + i));
          EXPECT(tokens_of(last.context_logits) == (i % 3 != 0 ? tokens_after(prompt) : none));
          EXPECT(tokens_of(last.generation_logits) == (i % 4 != 0 ? last.token_ids : none));
        }
        EXPECT(fixture.script->max_sequences <= max_batch_size);
        EXPECT(fixture.script->max_tokens <= max_num_tokens);
        fixture.expect_all_free();
      }
    }
  }
}

void of_streams_come_with_their_tokens() {
  Fixture fixture;
  Request request;
  request.input_ids = prompt_of(9);
  request.stop.max_new_tokens = 20;
  request.streaming = true;
  request.return_context_logits = request.return_generation_logits = true;
  std::vector<int32_t> tokens, context, generation;
  bool context_is_first = true;
  Answer answer;
  const executor::ResponseCallback gather = answer.callback();
  fixture.engine->submit(
      std::make_shared<Request>(std::move(request)), [&](executor::Response&& part) {
        if (!part.context_logits.empty()) {
          context_is_first &= tokens.empty() && !part.token_ids.empty();
          context = tokens_of(part.context_logits);
        }
        const std::vector<int32_t> rows = tokens_of(part.generation_logits);
        EXPECT(rows == part.token_ids);
        generation.insert(generation.end(), rows.begin(), rows.end());
        tokens.insert(tokens.end(), part.token_ids.begin(), part.token_ids.end());
        gather(std::move(part));
      });
  answer.wait();
  EXPECT(context_is_first);
  EXPECT(context == tokens_after(prompt_of(9)));
  EXPECT(tokens == expected_tokens(prompt_of(9), 20));
  EXPECT(generation == tokens);
}

void of_an_end_id_are_not_told() {
  Fixture fixture;
  Answer answer;
  Request request;
  request.input_ids = prompt_of(5);
  request.stop.max_new_tokens = 10;
  request.stop.end_ids = {expected_tokens(prompt_of(5), 4).back()};
  request.return_generation_logits = true;
  fixture.submit(answer, std::move(request));
  const executor::Response& last = answer.wait();
  EXPECT_EQ(last.token_ids.size(), 3u);
  EXPECT(tokens_of(last.generation_logits) == last.token_ids);
}

void cancelled_requests_leave_the_others_theirs() {
  Fixture fixture;
  fixture.script->gate.close();
  Answer cancelled, other;
  Request request;
  request.input_ids = prompt_of(60);
  request.stop.max_new_tokens = 3;
  request.return_context_logits = request.return_generation_logits = true;
  const executor::RequestId id = fixture.submit(cancelled, request);
  request.input_ids = prompt_of(6, 2);
  fixture.submit(other, request);
  fixture.script->gate.let_pass(2);
  fixture.script->gate.wait_for_arrivals(3);
  fixture.engine->cancel(id);
  fixture.script->gate.open();
  EXPECT(cancelled.wait().finish_reason == FinishReason::kCancelled);
  EXPECT(cancelled.wait().context_logits.empty());  // of half a prompt
  const executor::Response& last = other.wait();
  EXPECT(tokens_of(last.context_logits) == tokens_after(prompt_of(6, 2)));
  EXPECT(tokens_of(last.generation_logits) == expected_tokens(prompt_of(6, 2), 3));
  fixture.expect_all_free();
}

void are_bounded() {
  EngineInfo info = small_info();
  info.vocab_size = 1 << 29;  // a row is 2 GiB
  Fixture fixture(info);
  Answer answer;
  Request request;
  request.input_ids = {1, 2};
  request.stop.max_new_tokens = 3;
  const auto error_of = [&] {
    try {
      fixture.submit(answer, request);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  request.return_context_logits = true;
  EXPECT_EQ(error_of(),
            "the logits asked for, 2 rows of 536870912, are 4294967296 bytes in one response; at "
            "most 2147483647 are possible");
  request.return_generation_logits = true;
  EXPECT(error_of().find("5 rows") != std::string::npos);
  request.streaming = true;
  EXPECT(error_of().find("3 rows") != std::string::npos);
}

/// What `fixture` refuses `request` with; empty if it takes it.
std::string refusal_of(Fixture& fixture, Answer& answer, const Request& request) {
  try {
    fixture.submit(answer, request);
  } catch (const Error& error) {
    return concat(error.code() == ErrorCode::kResourceExhausted ? "for now: " : "", error.what());
  }
  return "";
}

/// [5, V] of a prompt and [3, V] of what is generated.
Request wants_eight_rows() {
  Request request;
  request.input_ids = prompt_of(5);
  request.stop.max_new_tokens = 3;
  request.return_context_logits = request.return_generation_logits = true;
  return request;
}

void of_all_requests_are_bounded() {
  constexpr int64_t kBytes = 8 * kVocabSize * sizeof(float);
  EngineConfig config;
  config.max_logits_bytes = 2 * kBytes + 5;
  Fixture fixture(small_info(), config);
  fixture.script->gate.close();
  const Request request = wants_eight_rows();
  Answer first, second, third, plain;
  EXPECT_EQ(refusal_of(fixture, first, request), "");
  EXPECT_EQ(refusal_of(fixture, second, request), "");
  EXPECT_EQ(
      refusal_of(fixture, third, request),
      concat("for now: the logits asked for are ", kBytes, " bytes, requests under way hold ",
             2 * kBytes, " of max_logits_bytes ", config.max_logits_bytes, ": try again later"));
  fixture.submit(plain, prompt_of(5), 3);  // others are not asked
  fixture.script->gate.open();
  first.wait();
  second.wait();
  EXPECT_EQ(refusal_of(fixture, third, request), "");
  EXPECT_EQ(tokens_of(third.wait().context_logits).size(), 5u);
}

void too_large_for_the_bound_are_never_possible() {
  constexpr int64_t kBytes = 8 * kVocabSize * sizeof(float);
  EngineConfig config;
  config.max_logits_bytes = kBytes - 1;
  Fixture fixture(small_info(), config);
  Answer answer;
  Request request = wants_eight_rows();
  EXPECT_EQ(refusal_of(fixture, answer, request),
            concat("the logits asked for are ", kBytes, " bytes; max_logits_bytes allows ",
                   kBytes - 1, " for all requests together"));
  request.streaming = true;  // has one generated row at a time
  EXPECT_EQ(refusal_of(fixture, answer, request), "");
  answer.wait();
}

void of_refused_and_cancelled_requests_count_no_more() {
  constexpr int64_t kBytes = 8 * kVocabSize * sizeof(float);
  EngineConfig config;
  config.max_logits_bytes = 2 * kBytes;
  Fixture fixture(small_info(), config);
  fixture.script->gate.close();
  const auto shared = std::make_shared<Request>(wants_eight_rows());
  std::vector<Answer> answers(4);
  std::vector<executor::Submission> three;
  for (int i = 0; i < 3; ++i) three.push_back({shared, answers[i].callback()});
  EXPECT_RAISES(fixture.engine->submit(three), "try again later");  // all or none
  three.pop_back();
  const std::vector<executor::RequestId> ids = fixture.engine->submit(three);
  fixture.engine->cancel(ids[0]);
  fixture.script->gate.open();
  EXPECT(answers[0].wait().finish_reason == FinishReason::kCancelled);
  answers[1].wait();
  three.clear();
  for (int i = 2; i < 4; ++i) three.push_back({shared, answers[i].callback()});
  fixture.engine->submit(three);
  answers[2].wait();
  answers[3].wait();
  fixture.expect_all_free();
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"of_prompts_and_tokens", of_prompts_and_tokens},
       {"of_streams_come_with_their_tokens", of_streams_come_with_their_tokens},
       {"of_an_end_id_are_not_told", of_an_end_id_are_not_told},
       {"cancelled_requests_leave_the_others_theirs", cancelled_requests_leave_the_others_theirs},
       {"are_bounded", are_bounded},
       {"of_all_requests_are_bounded", of_all_requests_are_bounded},
       {"too_large_for_the_bound_are_never_possible", too_large_for_the_bound_are_never_possible},
       {"of_refused_and_cancelled_requests_count_no_more",
        of_refused_and_cancelled_requests_count_no_more}},
      argc, argv);
}
