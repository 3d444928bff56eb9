#include "backend/decoding/sampler.h"

#include <algorithm>
#include <type_traits>

#include "backend/decoding/stop.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/sampling/argmax.h"
#include "kernels/sampling/log_probs.h"
#include "kernels/sampling/outcome.h"
#include "kernels/sampling/penalties.h"
#include "kernels/sampling/sample.h"

namespace inflight::decoding {
namespace {

SampleStatus status_of(int32_t token) {
  if (token == kBadLogits) return SampleStatus::kNanLogits;
  if (token == kNoToken) return SampleStatus::kNoToken;
  return SampleStatus::kOk;
}

}  // namespace

std::string message_of(SampleStatus status) {
  switch (status) {
    case SampleStatus::kOk:
      return "";
    case SampleStatus::kNanLogits:
      return "the logits of this sequence hold NaN or infinity, so no token can be chosen";
    case SampleStatus::kNoToken:
      return "every token of the vocabulary is banned (by bad_words, or by min_new_tokens which "
             "holds back the end ids), so no token can be chosen";
  }
  return "?";
}

Sampler::Sampler(Device device, cpu::ThreadPool* pool, int vocab_size, int max_batch_size)
    : vocab_size_(vocab_size), max_batch_size_(max_batch_size) {
  context_.device = device;
  context_.pool = pool;
  const int num_threads = pool == nullptr ? 1 : pool->num_threads();
  workspace_ = Buffer(std::max({argmax_workspace_bytes(vocab_size, num_threads),
                                penalties_workspace_bytes(vocab_size, num_threads),
                                sample_workspace_bytes(vocab_size, num_threads),
                                log_probs_workspace_bytes(vocab_size, num_threads)}),
                      device);
  context_.workspace = {workspace_.data(), workspace_.bytes()};
}

std::span<const SampledToken> Sampler::sample(const TensorView& logits,
                                              std::span<const SampleRow> rows) {
  check_inputs(logits, rows);
  fill_inputs(rows);
  if (!penalty_rows_.empty()) apply_penalties(logits);
  if (all_greedy_) {
    argmax({.logits = logits, .rows = view(rows_), .tokens = view(tokens_)}, context_);
  } else {
    draw(logits);
    if (any_log_probs_) find_log_probs(logits);
  }
  fill_results();
  return results_;
}

void Sampler::check_inputs(const TensorView& logits, std::span<const SampleRow> rows) const {
  check_internal(rows.size() <= static_cast<size_t>(max_batch_size_), "sampler: ", rows.size(),
                 " rows, at most ", max_batch_size_, " are possible");
  check_internal(logits.rank == 2 && logits.shape[1] == vocab_size_, "sampler: logits must be [B, ",
                 vocab_size_, "]");
  for (const SampleRow& row : rows) {
    check_internal(row.row >= 0 && row.row < logits.shape[0], "sampler: row ", row.row, " of ",
                   logits.shape[0], " rows of logits");
    check_internal(row.sampling != nullptr, "sampler: row ", row.row, " has no parameters");
  }
}

void Sampler::fill_inputs(std::span<const SampleRow> rows) {
  const size_t count = rows.size();
  for (auto* values : {&rows_, &top_ks_, &num_top_, &tokens_, &num_kept_, &top_counts_})
    values->resize(count);
  for (auto* values : {&temperatures_, &top_ps_, &min_ps_, &maxima_, &log_sums_, &log_probs_})
    values->resize(count);
  seeds_.resize(count);
  positions_.resize(count);
  top_starts_.assign(1, 0);
  for (auto* values : {&penalty_rows_, &history_, &generated_starts_, &banned_}) values->clear();
  for (auto* values : {&repetition_, &presence_, &frequency_}) values->clear();
  history_starts_.assign(1, 0);
  banned_starts_.assign(1, 0);
  all_greedy_ = true;
  any_log_probs_ = false;

  for (size_t i = 0; i < count; ++i) {
    const SampleRow& row = rows[i];
    const SamplingParams& sampling = *row.sampling;
    rows_[i] = row.row;
    temperatures_[i] = sampling.is_greedy() ? 0.0f : sampling.temperature;
    top_ks_[i] = sampling.top_k;
    top_ps_[i] = sampling.top_p;
    min_ps_[i] = sampling.min_p;
    seeds_[i] = static_cast<int64_t>(sampling.seed);
    positions_[i] = static_cast<int64_t>(row.generated_ids.size());
    num_top_[i] = sampling.num_logprobs;
    top_starts_.push_back(top_starts_.back() + std::max(0, sampling.num_logprobs));
    all_greedy_ &= sampling.is_greedy() && sampling.num_logprobs < 0;
    any_log_probs_ |= sampling.num_logprobs >= 0;
    add_penalties(row);
  }
  top_ids_.resize(top_starts_.back());
  top_log_probs_.resize(top_starts_.back());
}

void Sampler::add_penalties(const SampleRow& row) {
  const SamplingParams& sampling = *row.sampling;
  const bool repetition = sampling.repetition_penalty != 1.0f;
  const bool by_count = sampling.presence_penalty != 0.0f || sampling.frequency_penalty != 0.0f;
  if (row.stop != nullptr) append_banned_ids(*row.stop, row.generated_ids, banned_);
  const bool any_banned = static_cast<int32_t>(banned_.size()) > banned_starts_.back();
  if (!repetition && !by_count && !any_banned) return;
  penalty_rows_.push_back(row.row);
  repetition_.push_back(sampling.repetition_penalty);
  presence_.push_back(sampling.presence_penalty);
  frequency_.push_back(sampling.frequency_penalty);
  if (repetition) history_.insert(history_.end(), row.prompt_ids.begin(), row.prompt_ids.end());
  generated_starts_.push_back(static_cast<int32_t>(history_.size()));
  if (repetition || by_count)
    history_.insert(history_.end(), row.generated_ids.begin(), row.generated_ids.end());
  history_starts_.push_back(static_cast<int32_t>(history_.size()));
  banned_starts_.push_back(static_cast<int32_t>(banned_.size()));
}

void Sampler::apply_penalties(const TensorView& logits) {
  penalties({.logits = logits,
             .rows = view(penalty_rows_),
             .repetition = view(repetition_),
             .presence = view(presence_),
             .frequency = view(frequency_),
             .history = view(history_),
             .history_starts = view(history_starts_),
             .generated_starts = view(generated_starts_),
             .banned = view(banned_),
             .banned_starts = view(banned_starts_)},
            context_);
}

void Sampler::draw(const TensorView& logits) {
  inflight::sample({.logits = logits,
                    .rows = view(rows_),
                    .temperatures = view(temperatures_),
                    .top_ks = view(top_ks_),
                    .top_ps = view(top_ps_),
                    .min_ps = view(min_ps_),
                    .seeds = view(seeds_),
                    .positions = view(positions_),
                    .num_top = view(num_top_),
                    .tokens = view(tokens_),
                    .maxima = view(maxima_),
                    .log_sums = view(log_sums_),
                    .num_kept = view(num_kept_)},
                   context_);
}

void Sampler::find_log_probs(const TensorView& logits) {
  log_probs({.logits = logits,
             .rows = view(rows_),
             .temperatures = view(temperatures_),
             .tokens = view(tokens_),
             .maxima = view(maxima_),
             .log_sums = view(log_sums_),
             .num_kept = view(num_kept_),
             .num_top = view(num_top_),
             .top_starts = view(top_starts_),
             .log_probs = view(log_probs_),
             .top_counts = view(top_counts_),
             .top_ids = view(top_ids_),
             .top_log_probs = view(top_log_probs_)},
            context_);
}

void Sampler::fill_results() {
  results_.resize(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    SampledToken result;
    result.status = status_of(tokens_[i]);
    if (result.status == SampleStatus::kOk) {
      result.id = tokens_[i];
      if (num_top_[i] >= 0) {
        result.log_prob = log_probs_[i];
        result.top_ids = {top_ids_.data() + top_starts_[i], static_cast<size_t>(top_counts_[i])};
        result.top_log_probs = {top_log_probs_.data() + top_starts_[i], result.top_ids.size()};
      }
    }
    results_[i] = result;
  }
}

template <typename T>
TensorView Sampler::view(std::vector<T>& values) const {
  constexpr DType kType = std::is_same_v<T, float>     ? DType::kFloat32
                          : std::is_same_v<T, int64_t> ? DType::kInt64
                                                       : DType::kInt32;
  return TensorView::dense(values.data(), kType, {static_cast<int64_t>(values.size())},
                           context_.device);
}

}  // namespace inflight::decoding
