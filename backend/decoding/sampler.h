// Picks the next token of every sequence whose logits a step produced. Owned by a rank worker and
// called on its thread only. Knows per-row parameters and histories; no requests, no blocks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/decoding/sampling_params.h"
#include "kernels/core/buffer.h"
#include "kernels/core/op.h"
#include "kernels/core/tensor_view.h"

namespace inflight::decoding {

/// One row of the logits that samples. Rows that do not (prompt chunks but the last) are left out.
/// The spans and pointers must live until `sample` returns. The token drawn depends only on the
/// row's logits, its parameters and histories: never on its place in the batch.
struct SampleRow {
  int row = 0;                               // of logits[B, V]; each at most once
  const SamplingParams* sampling = nullptr;  // validated
  const StopParams* stop = nullptr;          // its bans: bad words, end ids until min_new_tokens
  std::span<const int32_t> prompt_ids;
  std::span<const int32_t> generated_ids;  // without the token now drawn
};

enum class SampleStatus : uint8_t {
  kOk,
  kNanLogits,  // the model's output for this row is not a number: fail the request
  kNoToken,    // every token is banned: fail the request
};

/// What an error response says; empty for kOk.
std::string message_of(SampleStatus status);

struct SampledToken {
  int32_t id = -1;  // -1 unless kOk
  SampleStatus status = SampleStatus::kOk;
  /// Log-probability of `id` under the distribution it was drawn from: after penalties, bans,
  /// temperature and filters, normalised. Greedy rows: of the softmax of the penalised logits.
  /// 0 unless num_logprobs >= 0.
  float log_prob = 0.0f;
  /// The likeliest tokens of the same distribution, likeliest first, ties by id; at most
  /// num_logprobs, fewer if the filters left fewer. Valid until the next `sample`.
  std::span<const int32_t> top_ids;
  std::span<const float> top_log_probs;
};

class Sampler {
 public:
  /// `pool` may be null (one thread). At most `max_batch_size` rows a call.
  Sampler(Device device, cpu::ThreadPool* pool, int vocab_size, int max_batch_size);

  /// One answer per element of `rows`, in their order; valid until the next call. `logits` is
  /// [B, V] float32, rows dense; rows with penalties or bans are overwritten. Allocates only while
  /// its buffers grow to the longest histories seen.
  std::span<const SampledToken> sample(const TensorView& logits, std::span<const SampleRow> rows);

 private:
  void check_inputs(const TensorView& logits, std::span<const SampleRow> rows) const;
  void fill_inputs(std::span<const SampleRow> rows);
  void add_penalties(const SampleRow& row);
  void apply_penalties(const TensorView& logits);
  void draw(const TensorView& logits);
  void find_log_probs(const TensorView& logits);
  void fill_results();
  template <typename T>
  TensorView view(std::vector<T>& values) const;

  OpContext context_;
  int vocab_size_;
  int max_batch_size_;
  Buffer workspace_;

  bool all_greedy_ = true;      // of this call: argmax alone answers it
  bool any_log_probs_ = false;  // of this call

  // Inputs of the kernels, one entry a row that samples.
  std::vector<int32_t> rows_;
  std::vector<float> temperatures_;
  std::vector<int32_t> top_ks_;
  std::vector<float> top_ps_;
  std::vector<float> min_ps_;
  std::vector<int64_t> seeds_;
  std::vector<int64_t> positions_;
  std::vector<int32_t> num_top_;  // num_logprobs; -1 = no log-probabilities
  // Penalties and bans, one entry a row that has any.
  std::vector<int32_t> penalty_rows_;
  std::vector<float> repetition_;
  std::vector<float> presence_;
  std::vector<float> frequency_;
  std::vector<int32_t> history_;  // prompt then generated ids, row after row
  std::vector<int32_t> history_starts_;
  std::vector<int32_t> generated_starts_;
  std::vector<int32_t> banned_;
  std::vector<int32_t> banned_starts_;
  // Outputs of the kernels.
  std::vector<int32_t> tokens_;
  std::vector<float> maxima_;
  std::vector<float> log_sums_;
  std::vector<int32_t> num_kept_;
  std::vector<float> log_probs_;
  std::vector<int32_t> top_starts_;
  std::vector<int32_t> top_counts_;
  std::vector<int32_t> top_ids_;
  std::vector<float> top_log_probs_;
  std::vector<SampledToken> results_;
};

}  // namespace inflight::decoding
