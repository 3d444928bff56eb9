// The engine loop over a scripted model: batches, endings, cancels, the queue, statistics.
#include <sys/resource.h>

#include <chrono>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "tests/cpp/engine_fixture.h"

namespace inflight::testing {
namespace {

void one_request() {
  Fixture fixture;
  Answer answer;
  fixture.submit(answer, prompt_of(10), 12);
  const executor::Response& last = answer.wait();
  EXPECT(answer.tokens() == expected_tokens(prompt_of(10), 12));
  EXPECT(last.finish_reason == FinishReason::kLength);
  EXPECT_EQ(answer.num_parts(), 1);
  EXPECT(last.times.arrival_ns > 0);
  EXPECT(last.times.first_scheduled_ns >= last.times.arrival_ns);
  EXPECT(last.times.first_token_ns >= last.times.first_scheduled_ns);
  EXPECT(last.times.last_token_ns > last.times.first_token_ns);
  fixture.expect_all_free();
  const EngineStats stats = fixture.engine->stats();
  EXPECT_EQ(stats.finished_requests, 1);
  EXPECT_EQ(stats.prompt_tokens, 10);
  EXPECT_EQ(stats.generated_tokens, 12);
  EXPECT_EQ(stats.iteration, 12);
}

void chunks_and_batches() {
  for (int max_num_tokens : {1, 3, 7, 64}) {
    for (int max_batch_size : {1, 3, 8}) {
      EngineInfo info = small_info();
      info.max_num_tokens = max_num_tokens;
      info.max_batch_size = max_batch_size;
      Fixture fixture(info);
      std::vector<std::unique_ptr<Answer>> answers;
      for (int i = 0; i < 12; ++i) {
        answers.push_back(std::make_unique<Answer>());
        fixture.submit(*answers[i], prompt_of(1 + i * 4, i), 1 + i, i % 2 == 0);
      }
      for (int i = 0; i < 12; ++i) {
        EXPECT(!answers[i]->wait().error);
        EXPECT(answers[i]->tokens() == expected_tokens(prompt_of(1 + i * 4, i), 1 + i));
      }
      EXPECT(fixture.script->max_sequences <= max_batch_size);
      EXPECT(fixture.script->max_tokens <= max_num_tokens);
      fixture.expect_all_free();
    }
  }
}

void a_small_pool_is_shared_in_turns() {
  EngineInfo info = small_info();
  info.num_blocks = 5;  // one request of 20 cached tokens at a time
  Fixture fixture(info);
  Answer first, second;
  fixture.submit(first, prompt_of(9, 1), 12);
  fixture.submit(second, prompt_of(9, 2), 12);
  EXPECT(first.wait().finish_reason == FinishReason::kLength);
  EXPECT(second.wait().finish_reason == FinishReason::kLength);
  EXPECT(second.tokens() == expected_tokens(prompt_of(9, 2), 12));
  EXPECT_EQ(fixture.script->max_sequences.load(), 1);
  Answer refused;
  EXPECT_RAISES(fixture.submit(refused, prompt_of(9), 13), "need 6 KV cache blocks");
  EXPECT_EQ(refused.num_parts(), 0);
}

void end_ids_and_stop_words() {
  const std::vector<int32_t> all = expected_tokens(prompt_of(5), 8);
  Fixture fixture;
  Answer ended, stopped;
  Request request;
  request.input_ids = prompt_of(5);
  request.stop.max_new_tokens = 8;
  request.stop.end_ids = {all[3]};
  fixture.submit(ended, request);
  request.stop.end_ids = {};
  request.stop.stop_words = {{all[4], all[5]}};
  request.streaming = true;
  fixture.submit(stopped, request);
  EXPECT(ended.wait().finish_reason == FinishReason::kEndId);
  EXPECT(ended.tokens() == std::vector<int32_t>(all.begin(), all.begin() + 3));
  EXPECT(stopped.wait().finish_reason == FinishReason::kStopWord);
  EXPECT(stopped.tokens() == std::vector<int32_t>(all.begin(), all.begin() + 6));
  EXPECT_EQ(fixture.engine->stats().generated_tokens, 9);
}

void bad_words_that_need_the_newest_token() {
  Fixture fixture;
  Answer with_words, without;
  Request request;
  request.input_ids = prompt_of(5);
  request.stop.max_new_tokens = 9;
  fixture.submit(without, prompt_of(6), 20, true);
  request.stop.bad_words = {{3}, {4, 5, 6}};  // the scripted executor refuses what it cannot tell
  fixture.submit(with_words, request);
  EXPECT(with_words.wait().finish_reason == FinishReason::kLength);
  EXPECT(with_words.tokens() == expected_tokens(prompt_of(5), 9));
  EXPECT(without.wait().finish_reason == FinishReason::kLength);
  EXPECT(without.tokens() == expected_tokens(prompt_of(6), 20));
  fixture.expect_all_free();
}

void the_next_step_waits_beside_the_one_that_runs() {
  Fixture fixture;
  fixture.script->gate.close();
  Answer answer;
  fixture.submit(answer, prompt_of(5), 8, true);
  while (fixture.script->num_steps < depth) std::this_thread::yield();
  fixture.script->gate.let_pass(1);
  answer.wait_for_tokens(1);
  while (fixture.script->num_steps < 1 + depth) std::this_thread::yield();
  EXPECT_EQ(fixture.script->max_in_flight.load(), depth);
  fixture.script->gate.open();
  EXPECT(answer.wait().finish_reason == FinishReason::kLength);
  EXPECT(answer.tokens() == expected_tokens(prompt_of(5), 8));
  EXPECT_EQ(fixture.engine->stats().iteration, 8);
}

void priorities_first() {
  Fixture fixture(small_info(1));
  fixture.script->gate.close();
  Answer running, low, high;
  fixture.submit(running, prompt_of(3), 2);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit(low, prompt_of(3, 2), 1);
  fixture.submit(high, prompt_of(3, 3), 1, false, 5);
  fixture.script->gate.let_pass(3);
  high.wait();
  EXPECT_EQ(low.num_finals(), 0);
  fixture.script->gate.open();
  low.wait();
}

void streaming_parts_merge_when_the_reader_lags() {
  if (callbacks_return_at_once) return;  // this one does not
  Fixture fixture;
  Gate reader;
  reader.close();
  Answer answer;
  const auto inner = answer.callback();
  auto request = std::make_shared<Request>();
  request->input_ids = prompt_of(4);
  request->stop.max_new_tokens = 20;
  request->streaming = true;
  fixture.engine->submit(request, [&](executor::Response&& part) {
    reader.pass();
    inner(std::move(part));
  });
  reader.wait_for_arrivals(1);
  while (fixture.engine->stats().active_requests > 0) std::this_thread::yield();
  reader.open();
  EXPECT(answer.wait().finish_reason == FinishReason::kLength);
  EXPECT(answer.tokens() == expected_tokens(prompt_of(4), 20));
  EXPECT(answer.num_parts() <= 3);
  EXPECT_EQ(answer.num_finals(), 1);
}

void cancelled_while_running_and_waiting() {
  Fixture fixture(small_info(2));
  fixture.script->gate.close();
  Answer running, other, waiting;
  const auto running_id = fixture.submit(running, prompt_of(4, 1), 30, true);
  fixture.submit(other, prompt_of(4, 2), 30);
  fixture.script->gate.wait_for_arrivals(1);
  const auto waiting_id = fixture.submit(waiting, prompt_of(4, 3), 30);
  fixture.script->gate.let_pass(3);
  running.wait_for_tokens(3);
  fixture.script->gate.wait_for_arrivals(4);
  fixture.engine->cancel(running_id);
  fixture.engine->cancel(waiting_id);
  fixture.engine->cancel(waiting_id);
  fixture.engine->cancel(987654);
  fixture.script->gate.let_pass(1);  // the step under way still ends
  EXPECT(running.wait().finish_reason == FinishReason::kCancelled);
  // With two steps in flight the engine may hear of it before the step under way is its turn.
  const std::vector<int32_t> tokens = running.tokens();
  EXPECT(tokens.size() == 4 || (depth > 1 && tokens.size() == 3));
  EXPECT(tokens == expected_tokens(prompt_of(4, 1), static_cast<int>(tokens.size())));
  EXPECT(waiting.wait().finish_reason == FinishReason::kCancelled);
  EXPECT(waiting.tokens().empty());
  EXPECT_EQ(waiting.wait().times.first_scheduled_ns, 0);
  fixture.script->gate.open();
  EXPECT(other.wait().finish_reason == FinishReason::kLength);
  EXPECT(other.tokens() == expected_tokens(prompt_of(4, 2), 30));
  fixture.engine->cancel(running_id);
  fixture.expect_all_free();
  EXPECT_EQ(fixture.engine->stats().cancelled_requests, 2);
}

void cancelled_blocks_serve_who_waits_for_them() {
  EngineInfo info = small_info();
  info.num_blocks = 5;
  Fixture fixture(info);
  fixture.script->gate.close();
  Answer first, second;
  const auto id = fixture.submit(first, prompt_of(9, 1), 12);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit(second, prompt_of(9, 2), 12);
  fixture.engine->cancel(id);
  fixture.script->gate.open();
  EXPECT(first.wait().finish_reason == FinishReason::kCancelled);
  EXPECT(second.wait().finish_reason == FinishReason::kLength);
}

void queue_full() {
  EngineConfig config;
  config.max_queue_size = 2;
  Fixture fixture(small_info(1), config);
  fixture.script->gate.close();
  Answer running, waiting[2], refused;
  fixture.submit(running, prompt_of(3), 4);
  fixture.script->gate.wait_for_arrivals(1);
  fixture.submit(waiting[0], prompt_of(3), 4);
  const auto id = fixture.submit(waiting[1], prompt_of(3), 4);
  EXPECT_RAISES(fixture.submit(refused, prompt_of(3), 4), "Maximum queue size of 2");
  EXPECT_RAISES(fixture.submit(refused, prompt_of(3), 4), "Exceeds maximum queue size");
  fixture.engine->cancel(id);
  fixture.script->gate.let_pass(1);
  waiting[1].wait();
  fixture.submit(refused, prompt_of(3), 4);  // now there is room
  fixture.script->gate.open();
  for (Answer* answer : {&running, &waiting[0], &refused}) {
    EXPECT(answer->wait().finish_reason == FinishReason::kLength);
  }
}

void refused_at_the_door() {
  Fixture fixture;
  Answer answer;
  EXPECT_RAISES(fixture.submit(answer, {}, 4), "prompt is empty");
  EXPECT_RAISES(fixture.submit(answer, prompt_of(64), 4),
                "Prompt length (64) exceeds maximum input length (63)");
  EXPECT_RAISES(fixture.submit(answer, {1, 2, kVocabSize}, 4),
                "input_ids[2] is 1000, outside the vocabulary [0, 1000)");
  EXPECT_RAISES(fixture.submit(answer, {1, -7}, 4), "input_ids[1] is -7");
  EXPECT_RAISES(fixture.submit(answer, {1}, 0), "max_new_tokens");
  EXPECT_EQ(answer.num_parts(), 0);
  fixture.submit(answer, prompt_of(60), 100);  // shortened
  EXPECT(answer.wait().finish_reason == FinishReason::kLength);
  EXPECT(answer.tokens() == expected_tokens(prompt_of(60), 4));
}

void shutting_down_cancels_all() {
  Fixture fixture(small_info(2));
  fixture.script->gate.close();
  Answer answers[5];
  for (int i = 0; i < 5; ++i) fixture.submit(answers[i], prompt_of(4, i), 50, i % 2 == 0);
  fixture.script->gate.wait_for_arrivals(1);
  std::thread closer([&] { fixture.engine->shut_down(); });
  // The step waits at the gate until the engine takes no more requests; those it took end alike.
  std::vector<std::unique_ptr<Answer>> late;
  for (bool closing = false; !closing;) {
    late.push_back(std::make_unique<Answer>());
    try {
      fixture.submit(*late.back(), prompt_of(4), 50);
    } catch (const Error&) {
      late.pop_back();
      closing = true;
    }
  }
  fixture.script->gate.open();
  closer.join();
  const auto expect_cancelled = [](Answer& answer) {
    EXPECT_EQ(answer.num_finals(), 1);
    EXPECT(answer.wait().finish_reason == FinishReason::kCancelled);
  };
  for (Answer& answer : answers) expect_cancelled(answer);
  for (const auto& answer : late) expect_cancelled(*answer);
  fixture.expect_all_free();
  Answer refused;
  EXPECT_RAISES(fixture.submit(refused, prompt_of(3), 4), "shutting down");
  fixture.engine.reset();
}

void statistics_of_each_step() {
  EngineInfo info = small_info();
  Fixture fixture(info);
  std::mutex mutex;
  std::map<int64_t, EngineStats> seen;
  fixture.engine->on_step([&](const EngineStats& stats) {
    std::lock_guard lock(mutex);
    seen[stats.iteration] = stats;
  });
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 9; ++i) {
    answers.push_back(std::make_unique<Answer>());
    fixture.submit(*answers[i], prompt_of(7 + i, i), 6);
  }
  for (auto& answer : answers) answer->wait();
  fixture.engine->shut_down();
  const int64_t last = fixture.engine->stats().iteration;
  EXPECT(seen.contains(last));
  for (const auto& [iteration, stats] : seen) {
    EXPECT_EQ(stats.context_requests + stats.generation_requests, stats.scheduled_requests);
    EXPECT(stats.scheduled_requests >= 1 && stats.scheduled_requests <= info.max_batch_size);
    EXPECT(stats.context_tokens + stats.generation_requests <= info.max_num_tokens);
    EXPECT_EQ(stats.free_blocks + stats.used_blocks, stats.max_blocks);
    EXPECT_EQ(stats.running_requests + stats.waiting_requests, stats.active_requests);
  }
  EXPECT_EQ(fixture.engine->stats().scheduled_requests, 0);
  EXPECT_EQ(fixture.engine->stats().generated_tokens, 9 * 6);
}

/// While a step goes on its callback is silent, and the other is not; at rest both are.
void somebody_looks_around_during_a_long_step() {
  Fixture fixture;
  std::atomic<int> num_steps{0}, num_waits{0};
  fixture.engine->on_step([&](const EngineStats&) { ++num_steps; });
  fixture.engine->on_wait([&] { ++num_waits; });
  fixture.script->gate.close();
  Answer answer;
  fixture.submit(answer, prompt_of(5), 3, true);
  fixture.script->gate.wait_for_arrivals(1);
  while (num_waits < 3) std::this_thread::yield();
  EXPECT_EQ(num_steps.load(), 0);
  fixture.script->gate.open();
  answer.wait();
  fixture.expect_all_free();
  fixture.engine->shut_down();
  const int before = num_waits;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(num_waits.load(), before);
}

/// The step that ran when its request was cancelled ends unheard, and nothing comes after it.
void the_last_statistics_are_of_rest() {
  if (depth == 1) return;  // no step runs on after a cancel
  Fixture fixture;
  std::mutex mutex;
  EngineStats newest;
  const auto on_newest = [&](const auto& ask) {
    std::lock_guard lock(mutex);
    return ask(newest);
  };
  fixture.engine->on_step([&](const EngineStats& stats) {
    std::lock_guard lock(mutex);
    newest = stats;
  });
  for (int i = 0; i < 20; ++i) {
    Answer answer;
    fixture.script->gate.close();
    const executor::RequestId id = fixture.submit(answer, prompt_of(5), 50, true);
    fixture.script->gate.let_pass(3);
    answer.wait_for_tokens(3);
    fixture.engine->cancel(id);
    fixture.script->gate.let_pass(1);
    EXPECT(answer.wait().finish_reason == FinishReason::kCancelled);
    fixture.script->gate.open();
    fixture.expect_all_free();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    const auto is_free = [](const EngineStats& s) {
      return s.used_blocks == 0 && s.active_requests == 0;
    };
    while (!on_newest(is_free) && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(on_newest([](const EngineStats& s) { return s.used_blocks; }), 0);
    EXPECT_EQ(on_newest([](const EngineStats& s) { return s.active_requests; }), 0);
  }
  fixture.engine->shut_down();
}

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void idle_costs_nothing() {
  Fixture fixture;
  Answer answer;
  fixture.submit(answer, prompt_of(4), 4);
  answer.wait();
  // OpenBLAS's own threads spin for a moment after they are loaded: only the last look counts.
  double used = 1;
  for (int look = 0; look < 4 && used >= 0.005; ++look) {
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    used = cpu_seconds() - before;
  }
  EXPECT(used < 0.005);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases_at_each_depth(
      {{"one_request", one_request},
       {"chunks_and_batches", chunks_and_batches},
       {"a_small_pool_is_shared_in_turns", a_small_pool_is_shared_in_turns},
       {"end_ids_and_stop_words", end_ids_and_stop_words},
       {"bad_words_that_need_the_newest_token", bad_words_that_need_the_newest_token},
       {"the_next_step_waits_beside_the_one_that_runs",
        the_next_step_waits_beside_the_one_that_runs},
       {"priorities_first", priorities_first},
       {"streaming_parts_merge_when_the_reader_lags", streaming_parts_merge_when_the_reader_lags},
       {"cancelled_while_running_and_waiting", cancelled_while_running_and_waiting},
       {"cancelled_blocks_serve_who_waits_for_them", cancelled_blocks_serve_who_waits_for_them},
       {"queue_full", queue_full},
       {"refused_at_the_door", refused_at_the_door},
       {"shutting_down_cancels_all", shutting_down_cancels_all},
       {"statistics_of_each_step", statistics_of_each_step},
       {"the_last_statistics_are_of_rest", the_last_statistics_are_of_rest},
       {"somebody_looks_around_during_a_long_step", somebody_looks_around_during_a_long_step},
       {"idle_costs_nothing", idle_costs_nothing}},
      argc, argv);
}
