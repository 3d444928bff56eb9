// What requests find of earlier ones: blocks allocated and reused, the same tokens as without, and
// books that stay right in a small pool. The scripted model reads its history from the cache.
#include <memory>
#include <vector>

#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

EngineInfo info_of(int tokens_per_block, int num_blocks) {
  EngineInfo info = small_info();
  info.tokens_per_block = tokens_per_block;
  info.num_blocks = num_blocks;
  info.max_seq_len = 256;
  info.max_prompt_len = 255;
  info.max_num_tokens = 128;
  return info;
}

executor::ContextBlocks blocks_of(Fixture& fixture, std::vector<int32_t> prompt, int count) {
  Answer answer;
  fixture.submit(answer, prompt, count);
  const executor::Response& last = answer.wait();
  EXPECT(!last.error);
  EXPECT(answer.tokens() == expected_tokens(prompt, count));
  fixture.expect_all_free();
  return last.context_blocks;
}

void expect_blocks(const executor::ContextBlocks& blocks, int allocated, int reused) {
  EXPECT_EQ(blocks.allocated, allocated);
  EXPECT_EQ(blocks.reused, reused);
}

void repeat_allocates_one_block_and_reuses_four() {
  Fixture fixture(info_of(32, 64));
  expect_blocks(blocks_of(fixture, prompt_of(105), 10), 4, 0);
  EXPECT_EQ(fixture.engine->stats().prompt_tokens, 105);
  expect_blocks(blocks_of(fixture, prompt_of(105), 10), 1, 4);
  const EngineStats stats = fixture.engine->stats();
  EXPECT_EQ(stats.prompt_tokens, 106);  // the last is always run
  EXPECT_EQ(stats.prefix_hit_tokens, 104);
  EXPECT_EQ(stats.prefix_queried_tokens, 210);
  EXPECT_EQ(stats.reused_blocks, 4);
  EXPECT_EQ(stats.copied_blocks, 1);
  EXPECT_EQ(stats.cached_blocks, 4);
}

void answer_is_a_prefix_of_what_follows() {
  Fixture fixture(info_of(4, 64));
  std::vector<int32_t> chat = prompt_of(10);
  expect_blocks(blocks_of(fixture, chat, 9), 3, 0);
  const std::vector<int32_t> answer = expected_tokens(chat, 9);
  chat.insert(chat.end(), answer.begin(), answer.end());
  // 18 of the 19 tokens were computed: four blocks are shared, two tokens are copied.
  expect_blocks(blocks_of(fixture, chat, 5), 1, 5);
  EXPECT_EQ(fixture.engine->stats().prefix_hit_tokens, 18);
}

void whole_blocks_still_run_their_last_token() {
  Fixture fixture(info_of(4, 64));
  expect_blocks(blocks_of(fixture, prompt_of(8), 1), 2, 0);
  expect_blocks(blocks_of(fixture, prompt_of(8), 1), 1, 2);
  EXPECT_EQ(fixture.engine->stats().prefix_hit_tokens, 7);
}

void salts_do_not_share() {
  Fixture fixture(info_of(4, 64));
  const auto reused_with = [&](const std::string& salt) {
    Answer answer;
    Request request;
    request.input_ids = prompt_of(9);
    request.stop.max_new_tokens = 2;
    request.cache_scope.cache_salt = salt;
    fixture.submit(answer, std::move(request));
    return answer.wait().context_blocks.reused;
  };
  EXPECT_EQ(reused_with(""), 0);
  EXPECT_EQ(reused_with("mine"), 0);
  EXPECT_EQ(reused_with("mine"), 2);
  EXPECT_EQ(reused_with("yours"), 0);
  EXPECT_EQ(reused_with(""), 2);
}

void samples_of_a_prompt_share_its_blocks() {
  for (int prompt_len : {1, 8, 9, 30}) {
    EngineInfo info = info_of(4, 64);
    info.max_num_tokens = 16;  // a long prompt takes two steps
    Fixture fixture(info);
    std::vector<std::unique_ptr<Answer>> answers;
    std::vector<executor::Submission> together;
    for (int i = 0; i < 4; ++i) {
      auto request = std::make_shared<Request>();
      request->input_ids = prompt_of(prompt_len);
      request->stop.max_new_tokens = 9;
      answers.push_back(std::make_unique<Answer>());
      together.push_back({std::move(request), answers.back()->callback()});
    }
    fixture.engine->submit(std::move(together));
    const int whole = (prompt_len - 1) / 4, in_all = (prompt_len + 3) / 4;
    for (int i = 0; i < 4; ++i) {
      const executor::Response& last = answers[i]->wait();
      EXPECT(answers[i]->tokens() == expected_tokens(prompt_of(prompt_len), 9));
      expect_blocks(last.context_blocks, i == 0 ? in_all : in_all - whole,
                    i == 0 ? 0 : (prompt_len - 1 + 3) / 4);
    }
    fixture.expect_all_free();
    // The first reads the prompt, the others its last token each.
    EXPECT_EQ(fixture.engine->stats().prompt_tokens, prompt_len + 3);
  }
}

/// At once, so that each but the first comes while another reads the same prompt.
void samples_of_other_salts_share_nothing() {
  EngineInfo info = info_of(4, 64);
  info.max_num_tokens = 16;
  Fixture fixture(info);
  std::vector<std::unique_ptr<Answer>> answers;
  std::vector<executor::Submission> together;
  for (const char* salt : {"", "mine", "yours", "yours"}) {
    auto request = std::make_shared<Request>();
    request->input_ids = prompt_of(30);
    request->stop.max_new_tokens = 3;
    request->cache_scope.cache_salt = salt;
    answers.push_back(std::make_unique<Answer>());
    together.push_back({std::move(request), answers.back()->callback()});
  }
  fixture.engine->submit(std::move(together));
  for (int i = 0; i < 4; ++i)
    expect_blocks(answers[i]->wait().context_blocks, i < 3 ? 8 : 1, i < 3 ? 0 : 8);
  EXPECT_EQ(fixture.engine->stats().prefix_hit_tokens, 29);
}

void context_logits_run_the_whole_prompt() {
  Fixture fixture(info_of(4, 64));
  for (int i = 0; i < 2; ++i) {
    Answer answer;
    Request request;
    request.input_ids = prompt_of(9);
    request.stop.max_new_tokens = 2;
    request.return_context_logits = true;
    fixture.submit(answer, std::move(request));
    const executor::Response& last = answer.wait();
    EXPECT_EQ(last.context_logits.size(), size_t{9} * kVocabSize);
    expect_blocks(last.context_blocks, 3, 0);
  }
}

void failed_step_leaves_nothing_to_find() {
  Fixture fixture(info_of(4, 64));
  expect_blocks(blocks_of(fixture, prompt_of(12), 3), 3, 0);
  fixture.script->fail_at_step = fixture.script->num_steps.load();
  Answer answer;
  fixture.submit(answer, prompt_of(12), 3);
  EXPECT(answer.wait().error.has_value());
  fixture.expect_all_free();
  EXPECT_EQ(fixture.engine->stats().cached_blocks, 0);
  expect_blocks(blocks_of(fixture, prompt_of(12), 3), 3, 0);
}

void switched_off_nothing_is_found() {
  EngineInfo info = info_of(4, 64);
  info.enable_kv_cache_reuse = false;
  Fixture fixture(info);
  for (int i = 0; i < 2; ++i) expect_blocks(blocks_of(fixture, prompt_of(9), 5), 3, 0);
  EXPECT_EQ(fixture.engine->stats().cached_blocks, 0);
  EXPECT_EQ(fixture.engine->stats().prefix_hit_tokens, 0);
}

/// Many that begin alike, some cancelled, in a pool for a few.
void answer_in_tiny_pool(EngineInfo info, const executor::EngineConfig& config = {}) {
  info.max_num_tokens = 11;
  info.max_seq_len = 27;
  info.max_prompt_len = 26;
  Fixture fixture(info, config);
  std::vector<std::unique_ptr<Answer>> answers;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 60; ++i) {
    // Prompts that part ways at different places, some the same.
    std::vector<int32_t> prompt = prompt_of(4 + 7 * i % 13);
    if (i % 3 != 0) prompt[(i * 5) % prompt.size()] = i % 4;
    prompts.push_back(prompt);
    answers.push_back(std::make_unique<Answer>());
    const executor::RequestId id = fixture.submit(*answers[i], prompt, 1 + i % 10);
    if (i % 11 == 10) fixture.engine->cancel(id);
  }
  for (int i = 0; i < 60; ++i) {
    const executor::Response& last = answers[i]->wait();
    EXPECT(!last.error);
    std::vector<int32_t> expected = expected_tokens(prompts[i], 1 + i % 10);
    if (last.finish_reason == FinishReason::kCancelled)
      expected.resize(answers[i]->tokens().size());
    EXPECT(answers[i]->tokens() == expected);
  }
  fixture.expect_all_free();
  const EngineStats stats = fixture.engine->stats();
  EXPECT(stats.prefix_hit_tokens > 0);
  EXPECT_EQ(stats.copied_blocks > 0, info.kv_groups.empty());
  EXPECT(stats.evicted_blocks > 0);
}

void tiny_pools_answer_the_same() {
  for (int num_blocks : {9, 12, 20}) answer_in_tiny_pool(info_of(3, num_blocks));
}

void tiny_pools_of_windows_answer_the_same() {
  for (const char* policy : {"guaranteed_no_evict", "max_utilization"}) {
    executor::EngineConfig config;
    config.batch_scheduler_policy = policy;
    for (int num_blocks : {10, 14, 30}) {
      EngineInfo info = info_of(3, 20);
      info.kv_groups = {{.num_blocks = 20},
                        {.window = 5, .num_sinks = 2, .num_blocks = num_blocks},
                        {.window = 11, .num_blocks = num_blocks + 4}};
      answer_in_tiny_pool(info, config);
    }
  }
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {
          {"repeat_allocates_one_block_and_reuses_four",
           repeat_allocates_one_block_and_reuses_four},
          {"answer_is_a_prefix_of_what_follows", answer_is_a_prefix_of_what_follows},
          {"whole_blocks_still_run_their_last_token", whole_blocks_still_run_their_last_token},
          {"salts_do_not_share", salts_do_not_share},
          {"samples_of_a_prompt_share_its_blocks", samples_of_a_prompt_share_its_blocks},
          {"samples_of_other_salts_share_nothing", samples_of_other_salts_share_nothing},
          {"context_logits_run_the_whole_prompt", context_logits_run_the_whole_prompt},
          {"failed_step_leaves_nothing_to_find", failed_step_leaves_nothing_to_find},
          {"switched_off_nothing_is_found", switched_off_nothing_is_found},
          {"tiny_pools_answer_the_same", tiny_pools_answer_the_same},
          {"tiny_pools_of_windows_answer_the_same", tiny_pools_of_windows_answer_the_same},
      },
      argc, argv);
}
