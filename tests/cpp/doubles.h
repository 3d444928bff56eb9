// A model without arithmetic: its next token is a hash of all tokens it finds in its cache, reached
// through the slots and block tables it is given. So a wrong position, slot or table shows as a
// wrong token, and what is right can be computed from the prompt alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/executor/model_executor.h"
#include "kernels/core/check.h"

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

class ScriptedExecutor : public executor::ModelExecutor {
 public:
  struct Script {
    Gate gate;
    std::atomic<int> num_steps{0};
    std::atomic<int> fail_at_step{-1};  // counted from 0
    std::atomic<bool> usable{true};
    std::atomic<int> max_sequences{0};
    std::atomic<int> max_tokens{0};
    std::function<void()> after_step;  // on the engine thread, before the tokens are handed over
    std::function<decoding::SampledToken(const decoding::SampleRow&, decoding::SampledToken)> edit;
  };

  ScriptedExecutor(const executor::EngineInfo& info, std::shared_ptr<Script> script)
      : tokens_per_block_(info.tokens_per_block),
        memory_(info.num_blocks * info.tokens_per_block, -1),
        script_(std::move(script)) {}

  void launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows) override {
    script_->gate.pass();
    const int step = script_->num_steps++;
    if (step == script_->fail_at_step) throw std::runtime_error("scripted failure");
    script_->max_sequences = std::max(script_->max_sequences.load(), inputs.num_sequences);
    script_->max_tokens = std::max(script_->max_tokens.load(), inputs.num_tokens);
    const auto* ids = inputs.input_ids.as<int32_t>();
    const auto* slots = inputs.slots.as<int32_t>();
    for (int t = 0; t < inputs.num_tokens; ++t) memory_.at(slots[t]) = ids[t];
    results_.clear();
    for (const decoding::SampleRow& row : rows) results_.push_back(sample(inputs, row));
  }

  std::span<const decoding::SampledToken> wait() override {
    if (script_->after_step) script_->after_step();
    return results_;
  }

  bool is_usable() const override { return script_->usable; }

 private:
  decoding::SampledToken sample(const plan::StepInputs& inputs, const decoding::SampleRow& row) {
    const int b = row.row;
    const int length = inputs.kv_lengths.as<int32_t>()[b];
    const int first_row = inputs.query_starts.as<int32_t>()[b];
    const int end_row = inputs.query_starts.as<int32_t>()[b + 1];
    const auto* table = inputs.block_tables.as<int32_t>() + b * inputs.block_tables.strides[0];
    const auto prompt_len = static_cast<int>(row.prompt_ids.size());
    check_internal(inputs.last_rows.as<int32_t>()[b] == end_row - 1, "last_rows is wrong");
    for (int t = first_row; t < end_row; ++t) {
      const int position = length - (end_row - t);
      check_internal(inputs.positions.as<int32_t>()[t] == position, "positions are wrong");
      check_internal(inputs.rope_lengths.as<int32_t>()[t] == std::max(prompt_len, position + 1),
                     "rope_lengths are wrong");
    }
    std::vector<int32_t> history;
    for (int position = 0; position < length; ++position) {
      const int slot =
          table[position / tokens_per_block_] * tokens_per_block_ + position % tokens_per_block_;
      history.push_back(memory_.at(slot));
    }
    std::vector<int32_t> known(row.prompt_ids.begin(), row.prompt_ids.end());
    known.insert(known.end(), row.generated_ids.begin(), row.generated_ids.end());
    check_internal(history == known, "the cache does not hold the sequence's tokens");
    decoding::SampledToken token;
    token.id = next_token(history);
    return script_->edit ? script_->edit(row, token) : token;
  }

  const int tokens_per_block_;
  std::vector<int32_t> memory_;  // by slot
  std::shared_ptr<Script> script_;
  std::vector<decoding::SampledToken> results_;
};

/// Gathers one request's parts; `done` is ready with the final one.
class Answer {
 public:
  executor::ResponseCallback callback() {
    return [this](executor::Response&& part) {
      std::lock_guard lock(mutex_);
      ++num_parts_;
      num_finals_ += part.is_final;
      tokens_.insert(tokens_.end(), part.token_ids.begin(), part.token_ids.end());
      if (part.is_final) last_ = std::move(part);
      changed_.notify_all();
    };
  }
  const executor::Response& wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_finals_ > 0; });
    return last_;
  }
  void wait_for_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tokens_.size() >= count; });
  }
  std::vector<int32_t> tokens() const { return with_lock(tokens_); }
  int num_parts() const { return with_lock(num_parts_); }
  int num_finals() const { return with_lock(num_finals_); }

 private:
  template <typename T>
  T with_lock(const T& value) const {
    std::lock_guard lock(mutex_);
    return value;
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> tokens_;
  int num_parts_ = 0;
  int num_finals_ = 0;
  executor::Response last_;
};

}  // namespace inflight::testing
