// Turns a Step into the arrays that the plan reads: packed rows without padding, placed into the
// staging memory of the step. One builder per step in flight, so that the next step can be built
// while this one runs. Engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/decoding/logits_copies.h"
#include "backend/decoding/sampler.h"
#include "backend/executor/sequence.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/plan/step_inputs.h"
#include "backend/scheduler/step.h"
#include "kernels/core/staging.h"

namespace inflight::executor {

class BatchBuilder {
 public:
  /// `table_sources`: what executor/cache_groups.h says.
  BatchBuilder(int max_num_tokens, int max_batch_size, std::vector<int> table_sources);

  /// Fills inputs() and rows(). `sequences[i]` is what step.sequences[i] names; its blocks are
  /// reserved. `in_flight_tokens[i]` is the row of the step before that makes its newest token, if
  /// that is not known yet, else -1.
  void build(const scheduler::Step& step, std::span<Sequence* const> sequences,
             std::span<const int32_t> in_flight_tokens, const kv_cache::KvCacheManager& cache,
             Staging& staging);

  /// Bytes of staging that the largest step takes.
  static size_t staging_bytes(int max_num_tokens, int max_batch_size, int max_blocks_per_sequence,
                              int num_groups);

  const plan::StepInputs& inputs() const { return inputs_; }
  /// The rows of the logits that sample, in the order of the step's sequences.
  std::span<const decoding::SampleRow> rows() const { return rows_; }
  /// The rows of the logits that requests want to have, in the order of the step's sequences: those
  /// of a prompt's chunk, then that of the token it makes.
  std::span<const decoding::LogitsRows> wanted_logits() const { return wanted_logits_; }

 private:
  struct GroupArrays {
    int32_t* slots;
    int32_t* block_tables;
  };
  struct Arrays {  // where the host writes
    int32_t* input_ids;
    int32_t* positions;
    int32_t* rope_lengths;
    int32_t* query_starts;
    int32_t* kv_lengths;
    int32_t* last_rows;
  };
  /// Writes row b of those that are one for each row of logits.
  void place_logits_row(const Arrays& arrays, int b, int32_t first_row, int32_t last_row,
                        int32_t kv_length);
  Arrays lay_out(int num_tokens, int num_sequences, int num_columns, Staging& staging);

  const int max_num_tokens_;
  const int max_batch_size_;
  const std::vector<int> table_sources_;
  plan::StepInputs inputs_;
  std::vector<GroupArrays> groups_;               // of the plan's groups, where the host writes
  std::vector<std::span<const int32_t>> tables_;  // the same, of the sequence being placed
  std::vector<decoding::SampleRow> rows_;
  std::vector<decoding::LogitsRows> wanted_logits_;
};

}  // namespace inflight::executor
