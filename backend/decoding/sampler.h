// Picks the next token of every sequence whose logits a step produced. Owned by a rank worker and
// called on its thread only. Knows per-row parameters and histories; no requests, no blocks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/decoding/logit_edits.h"
#include "backend/decoding/sample_row.h"
#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/op.h"
#include "kernels/core/staging.h"
#include "kernels/core/tensor_view.h"
#include "kernels/sampling/log_probs.h"
#include "kernels/sampling/sample.h"
#include "kernels/sampling/top_p_reset.h"
#include "kernels/sampling/whole_log_sums.h"

namespace inflight::decoding {

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
  /// temperature and filters, normalised; without normalize_log_probs: after penalties, bans and
  /// temperature alone. Greedy rows: of the softmax of the penalised logits. 0 unless
  /// num_logprobs >= 0.
  float log_prob = 0.0f;
  /// The likeliest tokens of the same distribution, likeliest first, ties by id; at most
  /// num_logprobs, fewer if the filters left fewer. Valid as long as the results they are part of.
  std::span<const int32_t> top_ids;
  std::span<const float> top_log_probs;
};

/// A step is prepare, Staging::upload (the caller's), enqueue, fetch, results. Slots let steps
/// overlap: a slot holds what one step in flight needs.
class Sampler {
 public:
  /// At most `max_batch_size` rows a step. `context` outlives the sampler.
  Sampler(DeviceContext& context, int vocab_size, int max_batch_size, int num_slots);

  /// Packs the rows' parameters and histories. The slot's last results end here.
  void prepare(std::span<const SampleRow> rows, Staging& staging, int slot);
  /// Enqueues the draws of the rows prepared; on the CPU they are done on return. `logits` is
  /// [B, V] float32, rows dense; rows with penalties or bans are overwritten. `previous_tokens` is
  /// what in_flight_token points into, `tokens` of the step before; empty if no row has one.
  /// Allocates only when log-probabilities of more tokens than ever before are asked for.
  void enqueue(const TensorView& logits, const TensorView& previous_tokens, int slot);
  /// Whether that is one launch, alike for all steps with as many rows of logits but for its
  /// arguments: a recording of one serves the others (ChangingGraph::change).
  bool is_one_launch(int slot) const;
  /// Enqueues the copy of the answers to the host; after enqueue.
  void fetch(int slot);
  /// [max_batch_size] int32 on the device: entry i is the token of row i of the logits, negative
  /// where there is none (kernels/sampling/outcome.h). Always the same memory for a slot.
  TensorView tokens(int slot) const;
  /// Waits for the slot's answers: one per row prepared, in their order; valid until the next
  /// `prepare` with this slot.
  std::span<const SampledToken> results(int slot);

 private:
  /// Device memory with a pinned twin; on the CPU the same memory.
  struct Mirrored {
    void allocate(Device device, size_t bytes);
    template <typename T>
    T* on_host(size_t offset = 0) const {
      const Buffer& buffer = host.data() == nullptr ? device : host;
      return reinterpret_cast<T*>(static_cast<std::byte*>(buffer.data()) + offset);
    }
    void* on_device(size_t offset = 0) const {
      return static_cast<std::byte*>(device.data()) + offset;
    }
    Buffer device;
    Buffer host;
  };
  struct Slot {
    bool all_greedy = true;  // argmax, of all rows, answers it
    bool any_log_probs = false;
    bool is_fetched = false;
    std::vector<int32_t> rows;        // of the logits
    std::vector<int32_t> num_top;     // num_logprobs; -1 = no log-probabilities
    std::vector<int32_t> top_starts;  // into the top ids
    std::vector<int32_t> whole_rows;  // whose log-probabilities are of all ids
    // Inputs stand in the step's staging.
    LogitEdits edits;
    TopPResetParams top_p_reset;  // of `sample`; not all_greedy
    SampleParams sample;
    WholeLogSumsParams whole_log_sums;
    LogProbsParams log_probs;
    Mirrored answers;           // tokens by row of the logits, then log_probs and top_counts
    Mirrored top;               // top ids, then their log-probabilities
    std::optional<Event> made;  // answers are on the device
    std::optional<Event> copied;
    std::vector<SampledToken> results;
  };

  void check_row(const SampleRow& row) const;
  void place_params(std::span<const SampleRow> rows, Staging& staging, Slot& slot) const;
  void place_top_p_resets(std::span<const SampleRow> rows, Staging& staging, Slot& slot) const;
  void place_outputs(Slot& slot, size_t count);

  DeviceContext& context_;
  const int vocab_size_;
  const int max_batch_size_;
  OpContext op_context_;
  Buffer workspace_;
  Buffer scratch_;       // maxima, log_sums, num_kept of the step that runs
  Buffer chunk_maxima_;  // CUDA, once log-probabilities are asked for
  std::optional<Stream> copy_stream_;
  std::vector<Slot> slots_;
};

}  // namespace inflight::decoding
