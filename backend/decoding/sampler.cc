#include "backend/decoding/sampler.h"

#include <algorithm>

#include "backend/decoding/place.h"
#include "backend/decoding/top_p_decay.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/sampling/argmax.h"
#include "kernels/sampling/outcome.h"

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
      return "every token of the vocabulary is banned (by bad_words, by biases of -infinity, or by "
             "min_new_tokens which holds back the end ids), so no token can be chosen";
  }
  return "?";
}

void Sampler::Mirrored::allocate(Device where, size_t bytes) {
  device = Buffer(bytes, where);
  if (where.type == DeviceType::kCuda) host = Buffer::pinned(bytes);
}

Sampler::Sampler(DeviceContext& context, int vocab_size, int max_batch_size, int num_slots)
    : context_(context),
      vocab_size_(vocab_size),
      max_batch_size_(max_batch_size),
      op_context_(context.op_context()),
      slots_(num_slots) {
  const Device device = context.device();
  if (context.is_cuda()) {
    copy_stream_.emplace(device);
  } else {
    const int num_threads = op_context_.pool == nullptr ? 1 : op_context_.pool->num_threads();
    workspace_ = Buffer(std::max({argmax_workspace_bytes(vocab_size, num_threads),
                                  LogitEdits::workspace_bytes(vocab_size, num_threads),
                                  sample_workspace_bytes(vocab_size, num_threads),
                                  log_probs_workspace_bytes(vocab_size, num_threads)}),
                        device);
    op_context_.workspace = {workspace_.data(), workspace_.bytes()};
  }
  scratch_ = Buffer(3 * sizeof(float) * max_batch_size, device);
  for (Slot& slot : slots_) {
    slot.answers.allocate(device, 3 * sizeof(int32_t) * max_batch_size);
    if (context.is_cuda()) {
      slot.made.emplace(device);
      slot.copied.emplace(device);
    }
  }
}

void Sampler::check_row(const SampleRow& row) const {
  check_internal(row.row >= 0 && row.row < max_batch_size_, "sampler: row ", row.row, " of ",
                 max_batch_size_, " rows of logits");
  check_internal(row.sampling != nullptr, "sampler: row ", row.row, " has no parameters");
}

void Sampler::prepare(std::span<const SampleRow> rows, Staging& staging, int slot_index) {
  Slot& slot = slots_.at(slot_index);
  check_internal(rows.size() <= static_cast<size_t>(max_batch_size_), "sampler: ", rows.size(),
                 " rows, at most ", max_batch_size_, " are possible");
  for (const SampleRow& row : rows) check_row(row);
  slot.is_fetched = false;
  slot.all_greedy = std::ranges::all_of(rows, [](const SampleRow& row) {
    return row.sampling->is_greedy() && row.sampling->num_logprobs < 0;
  });
  slot.rows.clear();
  slot.num_top.clear();
  slot.top_starts.assign(1, 0);
  for (const SampleRow& row : rows) {
    const int num_top = row.sampling->num_logprobs;
    slot.rows.push_back(row.row);
    slot.num_top.push_back(num_top);
    slot.top_starts.push_back(slot.top_starts.back() + std::max(0, num_top));
  }
  slot.whole_rows.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const SamplingParams& sampling = *rows[i].sampling;
    if (sampling.num_logprobs >= 0 && !sampling.normalize_log_probs && !sampling.is_greedy())
      slot.whole_rows.push_back(static_cast<int32_t>(i));
  }
  slot.any_log_probs = std::ranges::any_of(slot.num_top, [](int32_t n) { return n >= 0; });
  place_params(rows, staging, slot);
  slot.edits.prepare(rows, staging);
  place_outputs(slot, rows.size());
}

void Sampler::place_params(std::span<const SampleRow> rows, Staging& staging, Slot& slot) const {
  const size_t count = rows.size();
  SampleParams& params = slot.sample;
  if (slot.all_greedy) return;
  place_all(staging, params.rows, slot.rows);
  place_all(staging, params.num_top, slot.num_top);
  auto* temperatures = place<float>(staging, params.temperatures, count);
  auto* top_ks = place<int32_t>(staging, params.top_ks, count);
  auto* top_ps = place<float>(staging, params.top_ps, count);
  auto* min_ps = place<float>(staging, params.min_ps, count);
  auto* seeds = place<int64_t>(staging, params.seeds, count);
  auto* positions = place<int64_t>(staging, params.positions, count);
  for (size_t i = 0; i < count; ++i) {
    const SamplingParams& sampling = *rows[i].sampling;
    temperatures[i] = sampling.is_greedy() ? 0.0f : sampling.temperature;
    top_ks[i] = sampling.top_k;
    top_ps[i] = top_p_after(sampling, rows[i].generated_ids, rows[i].num_unknown());
    min_ps[i] = sampling.min_p;
    seeds[i] = static_cast<int64_t>(sampling.seed);
    positions[i] = static_cast<int64_t>(rows[i].generated_ids.size()) + rows[i].num_unknown();
  }
  if (slot.any_log_probs) {
    place_all(staging, slot.log_probs.top_starts, slot.top_starts);
    place_all(staging, slot.whole_log_sums.entries, slot.whole_rows);
  }
  place_top_p_resets(rows, staging, slot);
}

void Sampler::place_top_p_resets(std::span<const SampleRow> rows, Staging& staging,
                                 Slot& slot) const {
  const auto may_reset = [](const SampleRow& row) {
    return row.in_flight_token >= 0 && row.sampling->top_p_reset_id >= 0 &&
           has_top_p_decay(*row.sampling);
  };
  slot.top_p_reset.entries.shape[0] = 0;
  const auto count = static_cast<size_t>(std::ranges::count_if(rows, may_reset));
  if (count == 0) return;
  TopPResetParams& params = slot.top_p_reset;
  auto* entries = place<int32_t>(staging, params.entries, count);
  auto* newest = place<int32_t>(staging, params.newest, count);
  auto* reset_ids = place<int32_t>(staging, params.reset_ids, count);
  auto* first_top_ps = place<float>(staging, params.first_top_ps, count);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!may_reset(rows[i])) continue;
    *entries++ = static_cast<int32_t>(i);
    *newest++ = rows[i].in_flight_token;
    *reset_ids++ = rows[i].sampling->top_p_reset_id;
    *first_top_ps++ = rows[i].sampling->top_p;
  }
  params.top_ps = slot.sample.top_ps;
}

void Sampler::place_outputs(Slot& slot, size_t count) {
  const auto length = static_cast<int64_t>(count);
  const Device device = context_.device();
  const size_t column = sizeof(int32_t) * max_batch_size_;
  const auto view = [&](void* data, DType dtype, int64_t size) {
    return TensorView::dense(data, dtype, {size}, device);
  };
  const auto scratch = [&](int i) { return static_cast<std::byte*>(scratch_.data()) + i * column; };
  SampleParams& sample = slot.sample;
  sample.tokens = view(slot.answers.on_device(), DType::kInt32, max_batch_size_);
  sample.maxima = view(scratch(0), DType::kFloat32, length);
  sample.log_sums = view(scratch(1), DType::kFloat32, length);
  sample.num_kept = view(scratch(2), DType::kInt32, length);
  sample.chunk_maxima = {};
  if (!slot.any_log_probs) return;

  if (context_.is_cuda()) {
    const int64_t num_chunks = (vocab_size_ + kMaximaChunk - 1) / kMaximaChunk;
    const size_t bytes = sizeof(float) * num_chunks * max_batch_size_;
    if (chunk_maxima_.bytes() == 0) chunk_maxima_ = Buffer(bytes, device);
    sample.chunk_maxima =
        TensorView::dense(chunk_maxima_.data(), DType::kFloat32, {length, num_chunks}, device);
  }
  const int64_t num_top = slot.top_starts.back();
  const size_t top_bytes = 2 * sizeof(int32_t) * num_top;
  if (slot.top.device.bytes() < top_bytes) slot.top.allocate(device, 2 * top_bytes);
  WholeLogSumsParams& whole = slot.whole_log_sums;
  whole.rows = sample.rows;
  whole.temperatures = sample.temperatures;
  whole.tokens = sample.tokens;
  whole.maxima = sample.maxima;
  whole.log_sums = sample.log_sums;
  whole.num_kept = sample.num_kept;
  LogProbsParams& log_probs = slot.log_probs;
  log_probs.rows = sample.rows;
  log_probs.temperatures = sample.temperatures;
  log_probs.tokens = sample.tokens;
  log_probs.maxima = sample.maxima;
  log_probs.log_sums = sample.log_sums;
  log_probs.num_kept = sample.num_kept;
  log_probs.chunk_maxima = sample.chunk_maxima;
  log_probs.num_top = sample.num_top;
  log_probs.log_probs = view(slot.answers.on_device(column), DType::kFloat32, length);
  log_probs.top_counts = view(slot.answers.on_device(2 * column), DType::kInt32, length);
  log_probs.top_ids = view(slot.top.on_device(), DType::kInt32, num_top);
  log_probs.top_log_probs =
      view(slot.top.on_device(num_top * sizeof(int32_t)), DType::kFloat32, num_top);
}

bool Sampler::is_one_launch(int slot_index) const {
  const Slot& slot = slots_.at(slot_index);
  return slot.all_greedy && slot.edits.are_none();
}

void Sampler::enqueue(const TensorView& logits, const TensorView& previous_tokens, int slot_index) {
  Slot& slot = slots_.at(slot_index);
  check_internal(logits.rank == 2 && logits.shape[1] == vocab_size_, "sampler: logits must be [B, ",
                 vocab_size_, "]");
  for (int32_t row : slot.rows) {
    check_internal(row < logits.shape[0], "sampler: row ", row, " of ", logits.shape[0],
                   " rows of logits");
  }
  slot.edits.enqueue(logits, previous_tokens, op_context_);
  if (slot.all_greedy) {
    argmax({.logits = logits, .tokens = slot.sample.tokens}, op_context_);
  } else {
    if (slot.top_p_reset.entries.shape[0] > 0) {
      slot.top_p_reset.previous_tokens = previous_tokens;
      top_p_reset(slot.top_p_reset, op_context_);
    }
    slot.sample.logits = logits;
    sample(slot.sample, op_context_);
  }
  if (slot.any_log_probs) {
    if (!slot.whole_rows.empty()) {
      slot.whole_log_sums.logits = logits;
      whole_log_sums(slot.whole_log_sums, op_context_);
    }
    slot.log_probs.logits = logits;
    log_probs(slot.log_probs, op_context_);
  }
}

void Sampler::fetch(int slot_index) {
  Slot& slot = slots_.at(slot_index);
  slot.is_fetched = true;
  if (!context_.is_cuda()) return;
  slot.made->record(context_.stream());
  slot.made->make_wait(*copy_stream_);
  // Without log-probabilities the tokens are all there is.
  const size_t bytes = slot.answers.device.bytes() / (slot.any_log_probs ? 1 : 3);
  copy_async(slot.answers.host.data(), slot.answers.device.data(), bytes, *copy_stream_);
  if (slot.any_log_probs && slot.top_starts.back() > 0) {
    copy_async(slot.top.host.data(), slot.top.device.data(),
               2 * sizeof(int32_t) * slot.top_starts.back(), *copy_stream_);
  }
  slot.copied->record(*copy_stream_);
}

TensorView Sampler::tokens(int slot) const {
  return TensorView::dense(slots_.at(slot).answers.on_device(), DType::kInt32, {max_batch_size_},
                           context_.device());
}

std::span<const SampledToken> Sampler::results(int slot_index) {
  Slot& slot = slots_.at(slot_index);
  check_internal(slot.is_fetched, "sampler: slot ", slot_index, " was not fetched");
  if (context_.is_cuda()) slot.copied->wait();
  const size_t column = sizeof(int32_t) * max_batch_size_;
  const auto* tokens = slot.answers.on_host<int32_t>();
  const auto* log_probs = slot.answers.on_host<float>(column);
  const auto* top_counts = slot.answers.on_host<int32_t>(2 * column);
  slot.results.assign(slot.rows.size(), {});
  for (size_t i = 0; i < slot.rows.size(); ++i) {
    SampledToken& result = slot.results[i];
    const int32_t token = tokens[slot.rows[i]];
    result.status = status_of(token);
    if (result.status != SampleStatus::kOk) continue;
    result.id = token;
    if (slot.num_top[i] < 0) continue;
    result.log_prob = log_probs[i];
    if (slot.num_top[i] == 0) continue;
    const auto count = static_cast<size_t>(top_counts[i]);
    const int32_t start = slot.top_starts[i];
    result.top_ids = {slot.top.on_host<int32_t>() + start, count};
    result.top_log_probs = {
        slot.top.on_host<float>(slot.top_starts.back() * sizeof(int32_t)) + start, count};
  }
  return slot.results;
}

}  // namespace inflight::decoding
