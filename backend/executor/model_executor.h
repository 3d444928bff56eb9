// Runs steps on a model: what the engine loop sees of ranks, plans and devices, and what a test
// double replaces. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backend/decoding/sampler.h"
#include "backend/executor/engine.h"
#include "backend/executor/rank_worker.h"
#include "backend/plan/engine_file.h"
#include "backend/plan/step_inputs.h"

namespace inflight::executor {

class ModelExecutor {
 public:
  virtual ~ModelExecutor() = default;

  /// Starts a step. `inputs` (host memory), `rows` and what they point to must live until its
  /// `wait` returns. Steps run in the order of launch.
  virtual void launch(const plan::StepInputs& inputs,
                      std::span<const decoding::SampleRow> rows) = 0;
  /// Ends the oldest step launched: one token per row, valid until the next wait.
  virtual std::span<const decoding::SampledToken> wait() = 0;
  /// False when after an error no further step can succeed.
  virtual bool is_usable() const { return true; }
};

/// The real one: the ranks of an engine directory. With one CPU rank a step runs inside launch, on
/// the engine thread and the rank's pool.
class RankExecutor : public ModelExecutor {
 public:
  /// Loads everything; fills the memory sizes of `info`, which holds the limits.
  RankExecutor(plan::EngineFile engine, const EngineConfig& config, EngineInfo& info);

  void launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows) override;
  std::span<const decoding::SampledToken> wait() override { return tokens_; }

  /// What was free before the KV pool was made, without the reserve.
  int64_t free_bytes() const { return free_bytes_; }

 private:
  const plan::EngineFile engine_;
  std::unique_ptr<RankWorker> worker_;
  int64_t free_bytes_ = 0;
  std::span<const decoding::SampledToken> tokens_;
};

}  // namespace inflight::executor
