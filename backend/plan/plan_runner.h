// Runs one rank's plan: binds every row once at load, then executes packed steps of any T and B up
// to its limits. Owns the arena; the plan, the weights, the cache and the device context belong to
// the caller and must outlive it. One thread at a time; runners of one plan and one set of weights
// are independent. On a CUDA device steps are put into the context's stream; steps with one row a
// sequence and short prompts are recorded and run again from the recording (cuda_graphs.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backend/plan/engine_file.h"
#include "backend/plan/step_inputs.h"
#include "backend/plan/weights.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

/// Launches a kernel that reads a step's logits and, but for its arguments, is the same for all
/// steps with as many of them: [B, V], or with rows of padding behind.
using LastLaunch = std::function<void(const TensorView& logits)>;

class PlanRunner {
 public:
  /// `limits` are the run-time ones, each at most the engine's. `kv_layers[i]` is layer i's cache
  /// [num_blocks, 2, num_kv_heads, tokens_per_block, head_size], strided. Raises Error if a row
  /// cannot run (unknown op, shapes that do not fit), naming the row.
  PlanRunner(const EngineFile& engine, int rank, const Weights& weights,
             const DeviceContext& context, const StepLimits& limits,
             std::vector<TensorView> kv_layers, bool cuda_graphs = true);
  ~PlanRunner();
  PlanRunner(const PlanRunner&) = delete;
  PlanRunner& operator=(const PlanRunner&) = delete;

  /// Puts other caches of the same layout, with any number of blocks, in the place of those given
  /// to the constructor. Before the first run.
  void set_kv_layers(const std::vector<TensorView>& kv_layers);

  /// Before the first run, with the caches in place: has what a CUDA device does once for a size of
  /// step (load kernels, choose among a library's algorithms) done for all of them, so that no
  /// request waits for it. Writes to the caches' first slot.
  void warm_up();

  /// From now on launches may be grids whose thread blocks wait for each other: for good, since the
  /// caller holds what keeps others' such grids off the device (OpContext::grids_may_wait). Waits
  /// for what runs; what was recorded before is recorded again when it is met.
  void let_grids_wait();

  /// The logits [B, V] float32 of each sequence's last row; valid until the next run. Allocates
  /// nothing, but for new recordings. On a CUDA device the work may still be under way on return,
  /// and `inputs` must stay until it is done. Raises invalid_argument if a view's shape or dtype is
  /// not what StepInputs says. `last`, if there is one, follows in the stream, recorded with the
  /// step where that is.
  TensorView run(const StepInputs& inputs, const LastLaunch& last = {});

  /// Most columns of StepInputs::block_tables: the blocks of a sequence of max_seq_len tokens.
  int max_blocks_per_sequence() const;
  int64_t arena_bytes() const;  // activations, workspace, step inputs
  int64_t workspace_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace inflight::plan
