// Turns a Step into the arrays that the plan reads: packed rows without padding, in one staging
// buffer that is used again. One builder per step in flight, so that the next step can be built
// while this one runs. Engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/decoding/sampler.h"
#include "backend/executor/sequence.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/plan/step_inputs.h"
#include "backend/scheduler/step.h"
#include "kernels/core/buffer.h"

namespace inflight::executor {

class BatchBuilder {
 public:
  BatchBuilder(int max_num_tokens, int max_batch_size, int max_blocks_per_sequence);

  /// Fills inputs() and rows(). `sequences[i]` is what step.sequences[i] names; its blocks are
  /// reserved.
  void build(const scheduler::Step& step, std::span<Sequence* const> sequences,
             const kv_cache::KvCacheManager& cache);

  const plan::StepInputs& inputs() const { return inputs_; }
  /// The rows of the logits that sample, in the order of the step's sequences.
  std::span<const decoding::SampleRow> rows() const { return rows_; }

 private:
  void lay_out(int num_tokens, int num_sequences);

  const int max_num_tokens_;
  const int max_batch_size_;
  const int max_blocks_per_sequence_;
  Buffer staging_;  // the arrays one after another, only as long as the step needs
  plan::StepInputs inputs_;
  std::vector<decoding::SampleRow> rows_;
};

}  // namespace inflight::executor
