// What tests of the engine loop share: a small engine over the scripted model, prompts, named
// cases.
#pragma once

#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cpp/doubles/answer.h"
#include "tests/cpp/doubles/scripted_executor.h"
#include "tests/cpp/testing.h"

namespace inflight::testing {

using executor::Engine;
using executor::EngineConfig;
using executor::EngineInfo;
using executor::EngineStats;
using executor::FinishReason;
using executor::Request;
using Script = ScriptedExecutor::Script;

inline EngineInfo small_info(int max_batch_size = 4) {
  EngineInfo info;
  info.vocab_size = kVocabSize;
  info.max_batch_size = max_batch_size;
  info.max_num_tokens = 16;
  info.max_seq_len = 64;
  info.max_prompt_len = 63;
  info.tokens_per_block = 4;
  info.num_blocks = 64;
  info.enable_kv_cache_reuse = true;
  return info;
}

/// Steps in flight of the fixtures made from now on: the cases run for each depth.
inline int depth = 1;
/// Whether the engine's thread may run their callbacks, likewise.
inline bool callbacks_return_at_once = false;

/// An engine over a scripted model; the script can be changed while it runs.
struct Fixture {
  explicit Fixture(EngineInfo info = small_info(), EngineConfig config = {})
      : script(std::make_shared<Script>()) {
    config.check_invariants = true;
    config.callbacks_return_at_once = callbacks_return_at_once;
    engine = std::make_unique<Engine>(info, config,
                                      std::make_unique<ScriptedExecutor>(info, script, depth));
  }
  ~Fixture() { script->gate.open(); }

  executor::RequestId submit(Answer& answer, std::vector<int32_t> prompt, int max_new_tokens,
                             bool streaming = false, int priority = 0) {
    auto request = std::make_shared<Request>();
    request->input_ids = std::move(prompt);
    request->stop.max_new_tokens = max_new_tokens;
    request->streaming = streaming;
    request->priority = priority;
    return engine->submit(std::move(request), answer.callback());
  }
  executor::RequestId submit(Answer& answer, Request request) {
    return engine->submit(std::make_shared<Request>(std::move(request)), answer.callback());
  }
  /// A request that must have ended `timeout` from now.
  executor::RequestId submit_with_deadline(Answer& answer, std::vector<int32_t> prompt,
                                           int max_new_tokens, std::chrono::milliseconds timeout) {
    Request request;
    request.input_ids = std::move(prompt);
    request.stop.max_new_tokens = max_new_tokens;
    request.deadline = std::chrono::steady_clock::now() + timeout;
    return submit(answer, std::move(request));
  }
  void expect_all_free() const {
    EngineStats stats = engine->stats();
    // A step in flight may name a sequence whose ending came from the step before.
    for (int i = 0; depth > 1 && stats.used_blocks > 0 && i < 2000; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      stats = engine->stats();
    }
    EXPECT_EQ(stats.active_requests, 0);
    EXPECT_EQ(stats.used_blocks, 0);
    EXPECT_EQ(stats.free_blocks, stats.max_blocks);
  }

  std::shared_ptr<Script> script;
  std::unique_ptr<Engine> engine;
};

inline std::vector<int32_t> prompt_of(int length, int first = 1) {
  std::vector<int32_t> prompt(length);
  for (int i = 0; i < length; ++i) prompt[i] = (first * 37 + i * 11) % kVocabSize;
  return prompt;
}

/// Answers begin one after another in this order, of their numbers.
template <size_t kCount>
void expect_to_begin(Answer (&answers)[kCount], const int (&order)[kCount]) {
  int64_t begin[kCount];
  for (size_t i = 0; i < kCount; ++i) begin[i] = answers[i].wait().times.first_scheduled_ns;
  for (size_t i = 1; i < kCount; ++i) EXPECT(begin[order[i - 1]] < begin[order[i]]);
}

/// What main returns: the cases with one step in flight and with two, for either way of calling
/// back.
inline int run_cases_at_each_depth(const std::vector<Case>& cases, int argc, char** argv) {
  int status = 0;
  for (const bool at_once : {false, true}) {
    callbacks_return_at_once = at_once;
    for (depth = 1; depth <= 2; ++depth) {
      std::printf("depth %d, callbacks by %s\n", depth, at_once ? "either thread" : "their thread");
      status |= run_cases(cases, argc, argv);
    }
  }
  return status;
}

}  // namespace inflight::testing
