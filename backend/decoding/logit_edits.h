// What a step changes in its logits before tokens are drawn: biases, penalties, bans. A slot of the
// sampler has one. Launches nothing where no row asks for it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/decoding/sample_row.h"
#include "kernels/core/op.h"
#include "kernels/core/staging.h"
#include "kernels/sampling/logit_bias.h"
#include "kernels/sampling/no_repeat_ngram.h"
#include "kernels/sampling/penalties.h"

namespace inflight::decoding {

class LogitEdits {
 public:
  /// On the CPU; none on CUDA.
  static size_t workspace_bytes(int64_t vocab_size, int num_threads);

  /// Packs what the rows ask for into the step's staging.
  void prepare(std::span<const SampleRow> rows, Staging& staging);
  /// Changes the rows prepared. `previous_tokens` is what in_flight_token points into.
  void enqueue(const TensorView& logits, const TensorView& previous_tokens, OpContext& context);
  /// No row prepared asks for a change.
  bool are_none() const;

 private:
  void place_biases(std::span<const SampleRow> rows, Staging& staging);
  void place_penalties(std::span<const SampleRow> rows, Staging& staging);
  void place_ngrams(std::span<const SampleRow> rows, Staging& staging);

  LogitBiasParams biases_;
  PenaltiesParams penalties_;
  NoRepeatNgramParams ngrams_;
  // Of the call of prepare.
  std::vector<const SampleRow*> asking_;
  std::vector<int32_t> banned_;
  std::vector<int32_t> banned_starts_;
};

}  // namespace inflight::decoding
