// Runs steps on a model: what the engine loop sees of ranks, plans and devices, and what a test
// double replaces. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "backend/decoding/logits_copies.h"
#include "backend/decoding/sampler.h"
#include "backend/executor/engine.h"
#include "backend/executor/rank_worker.h"
#include "backend/kv_cache/block_copy.h"
#include "backend/plan/engine_file.h"
#include "backend/plan/step_inputs.h"
#include "kernels/core/staging.h"

namespace inflight::executor {

class ModelExecutor {
 public:
  virtual ~ModelExecutor() = default;

  /// Steps that may be launched and not waited for. 1: a step runs inside launch.
  virtual int max_steps_in_flight() const { return 1; }
  /// Memory for the inputs of the step that is launched next, empty at each call.
  virtual Staging& staging() = 0;
  /// Starts a step, whose inputs lie in staging(); what `rows` point to is read now. Steps run in
  /// the order of launch. An input id ~i (-1 - i) and SampleRow::in_flight_token i are the token
  /// that row i of the step launched before makes. `copies` of the KV cache are made in their order
  /// after the steps before and before this one reads, also if it fails, unless the executor is no
  /// longer usable. If it raises, nothing of the step runs on, and those launched before are as
  /// they were.
  virtual void launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows,
                      std::span<const decoding::LogitsRows> wanted_logits,
                      std::span<const kv_cache::BlockCopy> copies) = 0;
  /// Ends the oldest step launched: one token per row, valid until the next launch. If it raises,
  /// all steps in flight have failed.
  virtual std::span<const decoding::SampledToken> wait() = 0;
  /// Of the step that wait() ended: what it took, where the executor knows better than the clock of
  /// the one that waits.
  virtual std::optional<double> step_ms() const { return std::nullopt; }
  /// Of the step that wait() ended: the rows of logits wanted, as the model made them, one after
  /// another [N, V]; valid as long as its tokens.
  virtual std::span<const float> logits() const = 0;
  /// Copies beside steps, as those of a launch; and a block's bytes out of and into its place. They
  /// are done when they return. No step in flight names the blocks that are written.
  virtual void make_copies(std::span<const kv_cache::BlockCopy> copies) = 0;
  virtual void read_block(kv_cache::Tier tier, int32_t block, std::span<std::byte> to) = 0;
  virtual void write_block(kv_cache::Tier tier, int32_t block, std::span<const std::byte> from) = 0;
  /// False when after an error no further step can succeed.
  virtual bool is_usable() const { return true; }
};

/// The real one: the ranks of an engine directory. With one rank there is no thread of its own: on
/// the CPU a step runs inside launch, on the engine thread and the rank's pool; on a CUDA device
/// launch only puts it into the device's queue.
class RankExecutor : public ModelExecutor {
 public:
  /// Loads everything; fills the memory sizes of `info`, which holds the limits.
  RankExecutor(plan::EngineFile engine, const EngineConfig& config, EngineInfo& info);

  int max_steps_in_flight() const override { return worker_->num_slots(); }
  Staging& staging() override;
  void launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows,
              std::span<const decoding::LogitsRows> wanted_logits,
              std::span<const kv_cache::BlockCopy> copies) override;
  std::span<const decoding::SampledToken> wait() override;
  std::span<const float> logits() const override { return worker_->logits(waited_slot_); }
  void make_copies(std::span<const kv_cache::BlockCopy> copies) override;
  void read_block(kv_cache::Tier tier, int32_t block, std::span<std::byte> to) override;
  void write_block(kv_cache::Tier tier, int32_t block, std::span<const std::byte> from) override;
  bool is_usable() const override { return is_usable_; }

  /// What was free before the KV pool was made, without the reserve.
  int64_t free_bytes() const { return free_bytes_; }

 private:
  int after(int slot) const { return (slot + 1) % worker_->num_slots(); }

  const plan::EngineFile engine_;
  std::unique_ptr<RankWorker> worker_;
  int64_t free_bytes_ = 0;
  int next_slot_ = 0;    // of the step launched next
  int oldest_slot_ = 0;  // of the step waited for next
  int waited_slot_ = 0;  // of the step waited for last
  bool is_usable_ = true;
};

}  // namespace inflight::executor
