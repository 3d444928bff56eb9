// A model without arithmetic: its next token is a hash of all tokens it finds in its cache, reached
// through the slots and block tables it is given. So a wrong position, slot or table shows as a
// wrong token, and what is right can be computed from the prompt alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/executor/model_executor.h"
#include "kernels/core/staging.h"

namespace inflight::testing {

inline constexpr int kVocabSize = 1000;

inline int32_t next_token(std::span<const int32_t> history) {
  uint64_t hash = 1469598103934665603u;
  for (int32_t id : history) hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211u;
  return static_cast<int32_t>((hash >> 17) % kVocabSize);
}

/// What a request must answer if nothing ends it early.
inline std::vector<int32_t> expected_tokens(std::vector<int32_t> prompt, int count) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(next_token(prompt));
    prompt.push_back(tokens.back());
  }
  return tokens;
}

/// Steps wait at a closed gate; counts those that came.
class Gate {
 public:
  void open() {
    std::lock_guard lock(mutex_);
    tickets_ = -1;
    changed_.notify_all();
  }
  void close() {
    std::lock_guard lock(mutex_);
    tickets_ = 0;
  }
  /// Lets `count` steps pass a closed gate.
  void let_pass(int count) {
    std::lock_guard lock(mutex_);
    tickets_ += count;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return tickets_ != 0; });
    if (tickets_ > 0) --tickets_;
  }
  void wait_for_arrivals(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int tickets_ = -1;  // -1: open
  int arrived_ = 0;
};

/// With depth 1 a step runs inside launch. With more, a thread of its own runs the steps in order,
/// as a device does: it alone reads the staged inputs then, and may be late.
class ScriptedExecutor : public executor::ModelExecutor {
 public:
  struct Script {
    Gate gate;  // steps wait there before they run
    std::atomic<int> num_steps{0};
    std::atomic<int> num_copies{0};
    std::atomic<int> fail_at_step{-1};   // at launch, counted from 0
    std::atomic<int> break_at_step{-1};  // while it runs, which wait hears of
    std::atomic<bool> usable{true};
    std::atomic<int> max_sequences{0};
    std::atomic<int> max_tokens{0};
    std::atomic<int> max_in_flight{0};
    // What a step takes in the time of its device, which is told and not spent.
    std::function<double(const plan::StepInputs&)> step_ms;
    struct Ran {
      int num_sequences, num_copies;
    };
    std::vector<Ran> steps;            // that ran; to be read when none does
    std::function<void()> after_step;  // on the engine thread, before the tokens are handed over
    std::function<decoding::SampledToken(const decoding::SampleRow&, decoding::SampledToken)> edit;
  };

  ScriptedExecutor(const executor::EngineInfo& info, std::shared_ptr<Script> script, int depth = 1);
  ~ScriptedExecutor() override;

  int max_steps_in_flight() const override { return static_cast<int>(steps_.size()); }

  Staging& staging() override;
  void launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows,
              std::span<const decoding::LogitsRows> wanted_logits,
              std::span<const kv_cache::BlockCopy> copies) override;
  std::span<const decoding::SampledToken> wait() override;

  std::optional<double> step_ms() const override { return waited_->ms; }
  std::span<const float> logits() const override { return waited_->logits; }

  void make_copies(std::span<const kv_cache::BlockCopy> copies) override;
  void read_block(kv_cache::Tier tier, int32_t id, std::span<std::byte> to) override;
  void write_block(kv_cache::Tier tier, int32_t id, std::span<const std::byte> from) override;

  bool is_usable() const override { return script_->usable; }

 private:
  struct StagedRow {
    decoding::SampleRow row;  // of its spans nothing may be read after launch
    std::vector<int32_t> known;
    int prompt_len;
  };
  struct StagedStep {
    int number = 0;
    std::vector<kv_cache::BlockCopy> copies;
    Staging staging{{}, 256};
    plan::StepInputs inputs;
    std::vector<StagedRow> rows;
    std::vector<decoding::LogitsRows> wanted_logits;
    std::vector<decoding::SampledToken> results;
    std::vector<float> logits;  // 1 for the token that comes next, else 0
    std::optional<double> ms;
    std::exception_ptr error;
  };
  struct WindowMemory {
    executor::KvGroupInfo group;
    std::vector<int32_t> memory;  // by slot
  };

  void run_device();
  void wait_for_all();
  void run_step(StagedStep& step);
  void make(const kv_cache::BlockCopy& copy);
  std::span<int32_t> block(kv_cache::Tier tier, int32_t id);

  /// What sequence b of the step finds in the cache.
  std::vector<int32_t> history_of(const plan::StepInputs& inputs, int b);
  decoding::SampledToken sample(const plan::StepInputs& inputs, const StagedRow& staged);

  /// Whether all that rows from `first` on see through the window is there.
  void check_window(const WindowMemory& window, const TensorView& tables, int b, int first,
                    const std::vector<int32_t>& history) const;

  const int tokens_per_block_;
  std::vector<int32_t> memory_;       // by slot
  std::vector<int32_t> host_memory_;  // likewise
  std::vector<WindowMemory> windows_;
  std::vector<kv_cache::BlockCopy> unmade_copies_;
  std::shared_ptr<Script> script_;
  std::vector<int32_t> previous_tokens_;  // by row of the step before
  std::vector<StagedStep> steps_;         // in turns
  StagedStep* waited_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  int num_launched_ = 0;
  int num_done_ = 0;
  int num_waited_ = 0;
  bool closed_ = false;
  std::thread device_;
};

}  // namespace inflight::testing
