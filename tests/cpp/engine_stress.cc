// Many threads submit and cancel at once: every accepted request ends with exactly one final part,
// those not cancelled with the right tokens, and every block comes home. Made for ThreadSanitizer.
#include <atomic>
#include <random>
#include <thread>

#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

constexpr int kNumThreads = 4;
constexpr int kRequestsPerThread = 250;

/// Submits with random lengths, cancels a third of what it submitted at random moments.
void client(Fixture& fixture, std::vector<std::unique_ptr<Answer>>& answers,
            std::vector<std::pair<int, int>>& lengths, int thread) {
  std::mt19937 random(thread);
  std::vector<executor::RequestId> ids;
  for (int i = 0; i < kRequestsPerThread; ++i) {
    const int prompt_len = 1 + static_cast<int>(random() % 30);
    const int max_new_tokens = 1 + static_cast<int>(random() % 20);
    lengths.emplace_back(prompt_len, max_new_tokens);
    answers.push_back(std::make_unique<Answer>());
    try {
      ids.push_back(fixture.submit(*answers.back(), prompt_of(prompt_len, thread), max_new_tokens,
                                   random() % 2 == 0, static_cast<int>(random() % 3)));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kResourceExhausted) fail(__FILE__, __LINE__, error.what());
      answers.back().reset();
    }
    if (!ids.empty() && random() % 3 == 0) fixture.engine->cancel(ids[random() % ids.size()]);
    if (random() % 16 == 0) fixture.engine->stats();
  }
}

void random_clients(bool shut_down_early) {
  EngineInfo info = small_info(8);
  info.num_blocks = 40;
  EngineConfig config;
  config.max_queue_size = 300;
  Fixture fixture(info, config);
  std::atomic<int> num_steps = 0;
  // Who wants to hear of steps has the response thread call back.
  if (!callbacks_return_at_once) fixture.engine->on_step([&](const EngineStats&) { ++num_steps; });
  std::vector<std::vector<std::unique_ptr<Answer>>> answers(kNumThreads);
  std::vector<std::vector<std::pair<int, int>>> lengths(kNumThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kNumThreads; ++t) {
    threads.emplace_back([&, t] { client(fixture, answers[t], lengths[t], t); });
  }
  for (std::thread& thread : threads) thread.join();
  if (shut_down_early) {
    while (fixture.engine->stats().iteration == 0)
      std::this_thread::yield();  // the engine's thread may be late to start
    fixture.engine->shut_down();
  }
  int num_accepted = 0;
  for (int t = 0; t < kNumThreads; ++t) {
    for (size_t i = 0; i < answers[t].size(); ++i) {
      if (!answers[t][i]) continue;
      ++num_accepted;
      const executor::Response& last = answers[t][i]->wait();
      const auto [prompt_len, max_new_tokens] = lengths[t][i];
      const auto all = expected_tokens(prompt_of(prompt_len, t), max_new_tokens);
      const auto tokens = answers[t][i]->tokens();
      EXPECT(!last.error);
      EXPECT(tokens.size() <= all.size());
      EXPECT(std::equal(tokens.begin(), tokens.end(), all.begin()));
      if (last.finish_reason == FinishReason::kLength) EXPECT_EQ(tokens.size(), all.size());
    }
  }
  fixture.expect_all_free();
  fixture.engine->shut_down();
  const EngineStats stats = fixture.engine->stats();
  EXPECT_EQ(stats.finished_requests + stats.cancelled_requests, num_accepted);
  EXPECT(stats.iteration > 0);
  EXPECT(callbacks_return_at_once || num_steps > 0);
  for (const auto& of_thread : answers) {
    for (const auto& answer : of_thread) {
      if (answer) EXPECT_EQ(answer->num_finals(), 1);
    }
  }
}

void clients_to_the_end() { random_clients(false); }
void clients_and_an_early_shut_down() { random_clients(true); }

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"clients_to_the_end", clients_to_the_end},
       {"clients_and_an_early_shut_down", clients_and_an_early_shut_down}},
      argc, argv);
}
