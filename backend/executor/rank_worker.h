// One rank of the model: its weights, runner, KV memory, sampler and threads. On the CPU a step
// runs on the thread that calls it, with the rank's own pool beside it; on a CUDA device it is put
// into the device's queue. One caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/decoding/logits_copies.h"
#include "backend/decoding/sampler.h"
#include "backend/executor/grid_lease.h"
#include "backend/kv_cache/block_copier.h"
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
  ~RankWorker() { settle(); }

  int64_t bytes_per_block() const;
  /// Binds the plan and takes all memory but that of the KV pool; once. `cuda_graphs`: generation
  /// steps on a CUDA device are recorded.
  void prepare(const plan::StepLimits& limits, bool cuda_graphs);
  /// Makes the KV pools, one for each group of layers, and the host tier, which is the first one's
  /// and goes with that alone; once, after prepare and before the first step.
  void make_kv_cache(std::span<const int32_t> num_blocks, int32_t num_host_blocks);
  /// Spares the first requests what the device does once; after make_kv_cache.
  void warm_up();

  /// Steps that may be in flight; each has a slot, in turns.
  int num_slots() const { return context_.is_cuda() ? 2 : 1; }
  /// Where the slot's next step has its inputs; free once its last one is done.
  Staging& staging(int slot) { return stagings_[slot]; }
  /// Makes the copies, which must precede the step and are made even if it fails.
  void copy_blocks(std::span<const kv_cache::BlockCopy> copies);
  const kv_cache::BlockCopier& copier() const { return *copier_; }
  /// Starts a step; `rows` is read now. Tokens still in flight are those of the slot before.
  void launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows,
              std::span<const decoding::LogitsRows> wanted_logits, int slot);
  /// Tokens for the rows of the slot's step once it is done; valid until its next one.
  std::span<const decoding::SampledToken> results(int slot);
  /// After results: the rows of logits wanted [N, V].
  std::span<const float> logits(int slot) const { return logits_copies_->rows(slot); }
  /// After an error: waits until the device does nothing more. False if it cannot go on.
  bool settle() noexcept;

  const plan::Weights& weights() const { return weights_; }
  int64_t kv_cache_bytes() const;
  double onboard_bytes_per_second() const { return onboard_bytes_per_second_; }
  int64_t kv_cache_host_bytes() const { return storages_[0]->host_bytes(); }
  int64_t pinned_bytes() const;  // 0 on the CPU
  int64_t arena_bytes() const { return runner_->arena_bytes(); }
  int64_t workspace_bytes() const { return runner_->workspace_bytes(); }

 private:
  /// Now and then: a later engine of a device gets the lease when the one before it has gone.
  void take_grid_lease();
  /// Replaces the pools and answers the model's layers.
  std::vector<TensorView> new_storage(std::span<const int32_t> num_blocks, int32_t num_host_blocks);

  const plan::EngineFile& engine_;
  const int rank_;
  const Device device_;
  cpu::ThreadPool pool_;
  GridLease grid_lease_;  // outlives what was launched under it
  DeviceContext context_;
  plan::Weights weights_;
  std::vector<std::unique_ptr<kv_cache::KvStorage>> storages_;  // by group
  std::optional<kv_cache::BlockCopier> copier_;
  double onboard_bytes_per_second_ = 0;
  std::optional<plan::PlanRunner> runner_;
  std::optional<decoding::Sampler> sampler_;
  std::optional<decoding::LogitsCopies> logits_copies_;
  std::vector<Staging> stagings_;  // by slot
  // CUDA only: inputs are copied beside the step before; in the stream of steps a copy of 2 KB
  // keeps the device waiting for 11 µs.
  std::optional<Stream> upload_stream_;
  std::vector<Event> uploaded_;  // by slot
};

}  // namespace inflight::executor
