#include "tests/cpp/doubles/scripted_executor.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "kernels/core/check.h"

namespace inflight::testing {

ScriptedExecutor::ScriptedExecutor(const executor::EngineInfo& info, std::shared_ptr<Script> script,
                                   int depth)
    : tokens_per_block_(info.tokens_per_block),
      memory_(info.num_blocks * info.tokens_per_block, -1),
      host_memory_(info.num_host_blocks * info.tokens_per_block, -1),
      script_(std::move(script)),
      steps_(depth) {
  for (size_t g = 1; g < info.kv_groups.size(); ++g)  // group 0 sees everything
    windows_.push_back(
        {info.kv_groups[g],
         std::vector<int32_t>(info.kv_groups[g].num_blocks * info.tokens_per_block, -1)});
  if (depth > 1) device_ = std::thread([this] { run_device(); });
}

ScriptedExecutor::~ScriptedExecutor() {
  if (!device_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  device_.join();
}

Staging& ScriptedExecutor::staging() {
  StagedStep& step = steps_[num_launched_ % steps_.size()];
  step.staging.reset();
  return step.staging;
}

void ScriptedExecutor::launch(const plan::StepInputs& inputs,
                              std::span<const decoding::SampleRow> rows,
                              std::span<const decoding::LogitsRows> wanted_logits,
                              std::span<const kv_cache::BlockCopy> copies) {
  const int number = script_->num_steps++;
  script_->num_copies += static_cast<int>(copies.size());
  StagedStep& step = steps_[num_launched_ % steps_.size()];
  step.number = number;
  // Those of a step that failed at launch are made all the same.
  step.copies = std::exchange(unmade_copies_, {});
  step.copies.insert(step.copies.end(), copies.begin(), copies.end());
  step.inputs = inputs;
  step.rows.clear();
  step.wanted_logits.assign(wanted_logits.begin(), wanted_logits.end());
  for (const decoding::SampleRow& row : rows) {
    check_internal(row.in_flight_token < 0 || max_steps_in_flight() > 1, "nothing is in flight");
    check_internal(row.in_flight_token < 0 ||
                       std::ranges::none_of(
                           row.stop->bad_words, [](const auto& word) { return word.size() > 1; }),
                   "the bad words need a token in flight");
    std::vector<int32_t> known(row.prompt_ids.begin(), row.prompt_ids.end());
    known.insert(known.end(), row.generated_ids.begin(), row.generated_ids.end());
    step.rows.push_back({row, std::move(known), static_cast<int>(row.prompt_ids.size())});
  }
  if (!device_.joinable()) script_->gate.pass();
  if (number == script_->fail_at_step) {
    unmade_copies_ = std::move(step.copies);
    throw std::runtime_error("scripted failure");
  }
  {
    std::lock_guard lock(mutex_);
    ++num_launched_;
    const int in_flight = num_launched_ - num_waited_;
    check_internal(in_flight <= max_steps_in_flight(), in_flight, " steps in flight");
    script_->max_in_flight = std::max(script_->max_in_flight.load(), in_flight);
  }
  if (device_.joinable()) {
    changed_.notify_all();
  } else {
    run_step(step);
    ++num_done_;
    if (step.error) {
      --num_launched_, --num_done_;
      std::rethrow_exception(step.error);
    }
  }
}

std::span<const decoding::SampledToken> ScriptedExecutor::wait() {
  StagedStep& step = steps_[num_waited_ % steps_.size()];
  {
    std::unique_lock lock(mutex_);
    check_internal(num_waited_ < num_launched_, "no step to wait for");
    ++num_waited_;
    changed_.wait(lock, [this] { return num_done_ >= num_waited_; });
    if (step.error) {  // all in flight have failed
      changed_.wait(lock, [this] { return num_done_ == num_launched_; });
      num_waited_ = num_launched_;
      std::rethrow_exception(step.error);
    }
  }
  waited_ = &step;
  if (script_->after_step) script_->after_step();
  return step.results;
}

void ScriptedExecutor::make_copies(std::span<const kv_cache::BlockCopy> copies) {
  wait_for_all();
  for (const kv_cache::BlockCopy& copy : std::exchange(unmade_copies_, {})) make(copy);
  for (const kv_cache::BlockCopy& copy : copies) make(copy);
}

void ScriptedExecutor::read_block(kv_cache::Tier tier, int32_t id, std::span<std::byte> to) {
  wait_for_all();
  std::ranges::copy(std::as_bytes(block(tier, id)), to.begin());
}

void ScriptedExecutor::write_block(kv_cache::Tier tier, int32_t id,
                                   std::span<const std::byte> from) {
  wait_for_all();
  std::ranges::copy(from, std::as_writable_bytes(block(tier, id)).begin());
}

void ScriptedExecutor::run_device() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closed_ || num_done_ < num_launched_; });
    if (num_done_ == num_launched_) return;
    StagedStep& step = steps_[num_done_ % steps_.size()];
    lock.unlock();
    script_->gate.pass();
    run_step(step);
    lock.lock();
    ++num_done_;
    changed_.notify_all();
  }
}

void ScriptedExecutor::wait_for_all() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return num_done_ == num_launched_; });
}

void ScriptedExecutor::run_step(StagedStep& step) {
  step.error = nullptr;
  step.results.clear();
  try {
    for (const kv_cache::BlockCopy& copy : step.copies) make(copy);
    if (step.number == script_->break_at_step) throw std::runtime_error("scripted break");
    const plan::StepInputs& inputs = step.inputs;
    script_->steps.push_back({inputs.num_sequences, static_cast<int>(step.copies.size())});
    if (script_->step_ms) step.ms = script_->step_ms(inputs);
    script_->max_sequences = std::max(script_->max_sequences.load(), inputs.num_sequences);
    script_->max_tokens = std::max(script_->max_tokens.load(), inputs.num_tokens);
    const auto* ids = inputs.input_ids.as<int32_t>();
    const auto* slots = inputs.slots.as<int32_t>();
    for (int t = 0; t < inputs.num_tokens; ++t) {
      memory_.at(slots[t]) = ids[t] >= 0 ? ids[t] : previous_tokens_.at(~ids[t]);
      for (size_t g = 0; g < windows_.size(); ++g)
        windows_[g].memory.at(inputs.more_groups[g].slots.as<int32_t>()[t]) = memory_[slots[t]];
    }
    std::vector<int32_t> tokens(inputs.num_sequences, -1);
    for (StagedRow& staged : step.rows) {
      if (staged.row.in_flight_token >= 0)
        staged.known.push_back(previous_tokens_.at(staged.row.in_flight_token));
      step.results.push_back(sample(inputs, staged));
      tokens[staged.row.row] = step.results.back().id;
    }
    step.logits.clear();
    for (const decoding::LogitsRows& wanted : step.wanted_logits) {
      for (int b = wanted.first; b < wanted.first + wanted.count; ++b) {
        step.logits.resize(step.logits.size() + kVocabSize);
        step.logits.end()[next_token(history_of(inputs, b)) - kVocabSize] = 1.0f;
      }
    }
    previous_tokens_ = std::move(tokens);
  } catch (...) {
    step.error = std::current_exception();
  }
}

void ScriptedExecutor::make(const kv_cache::BlockCopy& copy) {
  check_internal(copy.num_tokens >= 1 && copy.num_tokens <= tokens_per_block_, "a copy of ",
                 copy.num_tokens, " tokens");
  const std::span<int32_t> to = block(copy.to_tier, copy.to_block);
  std::ranges::copy(block(copy.from_tier, copy.from_block).first(copy.num_tokens), to.begin());
  std::ranges::fill(to.subspan(copy.num_tokens), -1);  // undefined
}

std::span<int32_t> ScriptedExecutor::block(kv_cache::Tier tier, int32_t id) {
  auto& memory = tier == kv_cache::Tier::kHost ? host_memory_ : memory_;
  check_internal(id >= 0 && (size_t{1} + id) * tokens_per_block_ <= memory.size(),
                 "a copy names block ", id);
  return std::span(memory).subspan(size_t(id) * tokens_per_block_, tokens_per_block_);
}

std::vector<int32_t> ScriptedExecutor::history_of(const plan::StepInputs& inputs, int b) {
  const auto* table = inputs.block_tables.as<int32_t>() + b * inputs.block_tables.strides[0];
  std::vector<int32_t> history;
  for (int position = 0; position < inputs.kv_lengths.as<int32_t>()[b]; ++position) {
    const int slot =
        table[position / tokens_per_block_] * tokens_per_block_ + position % tokens_per_block_;
    history.push_back(memory_.at(slot));
  }
  return history;
}

decoding::SampledToken ScriptedExecutor::sample(const plan::StepInputs& inputs,
                                                const StagedRow& staged) {
  const int b = staged.row.row;
  const int length = inputs.kv_lengths.as<int32_t>()[b];
  const int first_row = inputs.query_starts.as<int32_t>()[b];
  const int end_row = inputs.query_starts.as<int32_t>()[b + 1];
  check_internal(inputs.last_rows.as<int32_t>()[b] == end_row - 1, "last_rows is wrong");
  for (int t = first_row; t < end_row; ++t) {
    const int position = length - (end_row - t);
    check_internal(inputs.positions.as<int32_t>()[t] == position, "positions are wrong");
    check_internal(
        inputs.rope_lengths.as<int32_t>()[t] == std::max(staged.prompt_len, position + 1),
        "rope_lengths are wrong");
  }
  const std::vector<int32_t> history = history_of(inputs, b);
  check_internal(history == staged.known, "the cache does not hold the sequence's tokens");
  for (size_t g = 0; g < windows_.size(); ++g)
    check_window(windows_[g], inputs.more_groups[g].block_tables, b, length - (end_row - first_row),
                 history);
  decoding::SampledToken token;
  token.id = next_token(history);
  return script_->edit ? script_->edit(staged.row, token) : token;
}

void ScriptedExecutor::check_window(const WindowMemory& window, const TensorView& tables, int b,
                                    int first, const std::vector<int32_t>& history) const {
  const auto* table = tables.as<int32_t>() + b * tables.strides[0];
  for (int position = 0; position < static_cast<int>(history.size()); ++position) {
    if (position <= first - window.group.window && position >= window.group.num_sinks) continue;
    const int slot =
        table[position / tokens_per_block_] * tokens_per_block_ + position % tokens_per_block_;
    check_internal(window.memory.at(slot) == history[position], "a window of ", window.group.window,
                   " does not hold token ", position);
  }
}

}  // namespace inflight::testing
