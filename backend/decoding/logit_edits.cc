#include "backend/decoding/logit_edits.h"

#include <algorithm>

#include "backend/decoding/place.h"
#include "backend/decoding/stop.h"

namespace inflight::decoding {
namespace {

bool has_repetition(const SamplingParams& sampling) { return sampling.repetition_penalty != 1.0f; }
bool has_penalty_by_count(const SamplingParams& sampling) {
  return sampling.presence_penalty != 0.0f || sampling.frequency_penalty != 0.0f;
}
std::span<const int32_t> penalised_prompt(const SampleRow& row) {
  const auto ignored = static_cast<size_t>(row.sampling->prompt_ignore_length);
  return row.prompt_ids.subspan(std::min(ignored, row.prompt_ids.size()));
}

/// The ids generated, the last one as the ops want it if it is in flight; returns their end.
int32_t* copy_generated(const SampleRow& row, int32_t* to) {
  to = std::ranges::copy(row.generated_ids, to).out;
  if (row.in_flight_token >= 0) *to++ = ~row.in_flight_token;
  return to;
}

}  // namespace

size_t LogitEdits::workspace_bytes(int64_t vocab_size, int num_threads) {
  return penalties_workspace_bytes(vocab_size, num_threads);
}

void LogitEdits::prepare(std::span<const SampleRow> rows, Staging& staging) {
  place_biases(rows, staging);
  place_penalties(rows, staging);
  place_ngrams(rows, staging);
}

void LogitEdits::enqueue(const TensorView& logits, const TensorView& previous_tokens,
                         OpContext& context) {
  if (biases_.rows.shape[0] > 0) {
    biases_.logits = logits;
    logit_bias(biases_, context);
  }
  if (penalties_.rows.shape[0] > 0) {
    penalties_.logits = logits;
    penalties_.previous_tokens = previous_tokens;
    penalties(penalties_, context);
  }
  if (ngrams_.rows.shape[0] > 0) {
    ngrams_.logits = logits;
    ngrams_.previous_tokens = previous_tokens;
    no_repeat_ngram(ngrams_, context);
  }
}

bool LogitEdits::are_none() const {
  return biases_.rows.shape[0] == 0 && penalties_.rows.shape[0] == 0 && ngrams_.rows.shape[0] == 0;
}

void LogitEdits::place_biases(std::span<const SampleRow> rows, Staging& staging) {
  size_t count = 0, num_entries = 0;
  for (const SampleRow& row : rows) {
    count += row.biases.empty() ? 0 : 1;
    num_entries += row.biases.size();
  }
  biases_.rows.shape[0] = 0;
  if (count == 0) return;
  auto* places = place<int32_t>(staging, biases_.rows, count);
  auto* starts = place<int32_t>(staging, biases_.starts, count + 1);
  auto* ids = place<int32_t>(staging, biases_.ids, num_entries);
  auto* values = place<float>(staging, biases_.biases, num_entries);
  *starts = 0;
  for (const SampleRow& row : rows) {
    if (row.biases.empty()) continue;
    *places++ = row.row;
    for (const TokenBias& entry : row.biases) {
      *ids++ = entry.id;
      *values++ = entry.bias;
    }
    starts[1] = starts[0] + static_cast<int32_t>(row.biases.size());
    ++starts;
  }
}

void LogitEdits::place_penalties(std::span<const SampleRow> rows, Staging& staging) {
  asking_.clear();
  banned_.clear();
  banned_starts_.assign(1, 0);
  size_t history_size = 0;
  for (const SampleRow& row : rows) {
    if (row.stop != nullptr)
      append_banned_ids(*row.stop, row.generated_ids, banned_, row.num_unknown());
    const bool repetition = has_repetition(*row.sampling);
    const bool by_count = has_penalty_by_count(*row.sampling);
    const bool any_banned = static_cast<int32_t>(banned_.size()) > banned_starts_.back();
    if (!repetition && !by_count && !any_banned) continue;
    asking_.push_back(&row);
    banned_starts_.push_back(static_cast<int32_t>(banned_.size()));
    if (repetition) history_size += penalised_prompt(row).size();
    if (repetition || by_count) history_size += row.generated_ids.size() + row.num_unknown();
  }
  penalties_.rows.shape[0] = 0;
  if (asking_.empty()) return;

  const size_t count = asking_.size();
  PenaltiesParams& params = penalties_;
  auto* places = place<int32_t>(staging, params.rows, count);
  auto* repetitions = place<float>(staging, params.repetition, count);
  auto* presences = place<float>(staging, params.presence, count);
  auto* frequencies = place<float>(staging, params.frequency, count);
  auto* generated_starts = place<int32_t>(staging, params.generated_starts, count);
  auto* history_starts = place<int32_t>(staging, params.history_starts, count + 1);
  auto* const history = place<int32_t>(staging, params.history, history_size);
  place_all(staging, params.banned, banned_);
  place_all(staging, params.banned_starts, banned_starts_);
  int32_t* end = history;
  history_starts[0] = 0;
  for (size_t i = 0; i < count; ++i) {
    const SampleRow& row = *asking_[i];
    const bool repetition = has_repetition(*row.sampling);
    places[i] = row.row;
    repetitions[i] = row.sampling->repetition_penalty;
    presences[i] = row.sampling->presence_penalty;
    frequencies[i] = row.sampling->frequency_penalty;
    if (repetition) end = std::ranges::copy(penalised_prompt(row), end).out;
    generated_starts[i] = static_cast<int32_t>(end - history);
    if (repetition || has_penalty_by_count(*row.sampling)) end = copy_generated(row, end);
    history_starts[i + 1] = static_cast<int32_t>(end - history);
  }
}

void LogitEdits::place_ngrams(std::span<const SampleRow> rows, Staging& staging) {
  asking_.clear();
  size_t history_size = 0;
  for (const SampleRow& row : rows) {
    if (row.sampling->no_repeat_ngram_size == 0) continue;
    asking_.push_back(&row);
    history_size += row.prompt_ids.size() + row.generated_ids.size() + row.num_unknown();
  }
  ngrams_.rows.shape[0] = 0;
  if (asking_.empty()) return;
  const size_t count = asking_.size();
  auto* places = place<int32_t>(staging, ngrams_.rows, count);
  auto* sizes = place<int32_t>(staging, ngrams_.sizes, count);
  auto* starts = place<int32_t>(staging, ngrams_.history_starts, count + 1);
  auto* const history = place<int32_t>(staging, ngrams_.history, history_size);
  int32_t* end = history;
  starts[0] = 0;
  for (size_t i = 0; i < count; ++i) {
    const SampleRow& row = *asking_[i];
    places[i] = row.row;
    sizes[i] = row.sampling->no_repeat_ngram_size;
    end = copy_generated(row, std::ranges::copy(row.prompt_ids, end).out);
    starts[i + 1] = static_cast<int32_t>(end - history);
  }
}

}  // namespace inflight::decoding
