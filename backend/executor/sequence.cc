#include "backend/executor/sequence.h"

#include <algorithm>
#include <utility>

#include "backend/decoding/biases.h"
#include "kernels/core/check.h"

namespace inflight::executor {

namespace {

planning::SequenceFacts facts_of(const Arrival& arrival) {
  const Request& request = *arrival.request;
  return {.id = arrival.id,
          .twin_id = arrival.twin_id,
          .priority = request.priority,
          .prompt_ids = request.input_ids,
          .max_new_tokens = arrival.max_new_tokens,
          .prefix_scope = &request.cache_scope,
          .retention = request.kv_retention ? &*request.kv_retention : nullptr,
          .return_context_logits = request.return_context_logits,
          .needs_newest_token = std::ranges::any_of(
              request.stop.bad_words, [](const auto& word) { return word.size() > 1; })};
}

}  // namespace

Sequence::Sequence(Arrival arrival, ResponseChannel& channel, std::pmr::memory_resource* memory)
    : PlannedSequence(facts_of(arrival), memory),
      channel(&channel),
      request_(std::move(arrival.request)),
      biases_(decoding::biases_of(request_->sampling)),
      arrival_ns_(arrival.arrival_ns) {}

void Sequence::copy_ids(int32_t first_position, int32_t num_tokens, int32_t in_flight_token,
                        int32_t* out) const {
  const int32_t end = first_position + num_tokens;
  const int32_t num_known = prompt_len() + static_cast<int32_t>(generated().size());
  check_internal(end <= num_known + (in_flight_token >= 0 ? 1 : 0), "request ", id(),
                 " has no token yet at position ", end - 1);
  const int32_t prompt_end = std::min(end, prompt_len());
  int32_t position = first_position;
  for (; position < prompt_end; ++position) *out++ = request_->input_ids[position];
  for (; position < std::min(end, num_known); ++position)
    *out++ = generated()[position - prompt_len()];
  if (position < end) *out = ~in_flight_token;
}

decoding::SampleRow Sequence::sample_row(int row, int32_t in_flight_token) const {
  return {.row = row,
          .sampling = &request_->sampling,
          .stop = &request_->stop,
          .biases = biases_,
          .prompt_ids = request_->input_ids,
          .generated_ids = generated(),
          .in_flight_token = in_flight_token};
}

}  // namespace inflight::executor
