// One rank of the model: its weights, runner, KV memory, sampler and threads. Runs a step on the
// thread that calls it, with the rank's own pool beside it; one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/decoding/sampler.h"
#include "backend/kv_cache/kv_storage.h"
#include "backend/plan/engine_file.h"
#include "backend/plan/plan_runner.h"
#include "backend/plan/weights.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/device.h"
#include "kernels/core/staging.h"

namespace inflight::executor {

class RankWorker {
 public:
  /// Starts the threads (0 = all cores) and loads the weights. `engine` outlives the worker.
  RankWorker(const plan::EngineFile& engine, int rank, Device device, int num_threads,
             plan::LoadFormat format);

  int64_t bytes_per_block() const;
  /// Binds the plan and takes all memory but that of the KV pool; once.
  void prepare(const plan::StepLimits& limits);
  /// Makes the KV pool; once, after prepare and before the first step.
  void make_kv_cache(int32_t num_blocks);

  /// Tokens for `rows`, valid until the next step.
  std::span<const decoding::SampledToken> run(const plan::StepInputs& inputs,
                                              std::span<const decoding::SampleRow> rows);

  const plan::Weights& weights() const { return weights_; }
  int64_t kv_cache_bytes() const { return storage_->bytes(); }
  int64_t arena_bytes() const { return runner_->arena_bytes(); }
  int64_t workspace_bytes() const { return runner_->workspace_bytes(); }

 private:
  /// Replaces the pool and answers its layers.
  std::vector<TensorView> new_storage(int32_t num_blocks);

  const plan::EngineFile& engine_;
  const int rank_;
  const Device device_;
  cpu::ThreadPool pool_;
  DeviceContext context_;
  plan::Weights weights_;
  std::optional<kv_cache::KvStorage> storage_;
  std::optional<plan::PlanRunner> runner_;
  std::optional<decoding::Sampler> sampler_;
  std::optional<Staging> staging_;
};

}  // namespace inflight::executor
