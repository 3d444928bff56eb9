#include "backend/executor/sequence.h"

#include <algorithm>
#include <utility>

#include "backend/decoding/biases.h"
#include "kernels/core/check.h"

namespace inflight::executor {

Sequence::Sequence(Arrival arrival, ResponseChannel& channel)
    : channel(&channel),
      id_(arrival.id),
      request_(std::move(arrival.request)),
      max_new_tokens_(arrival.max_new_tokens),
      biases_(decoding::biases_of(request_->sampling)),
      arrival_ns_(arrival.arrival_ns),
      needs_newest_token_(std::ranges::any_of(request_->stop.bad_words,
                                              [](const auto& word) { return word.size() > 1; })) {}

void Sequence::copy_ids(int32_t first_position, int32_t num_tokens, int32_t in_flight_token,
                        int32_t* out) const {
  const int32_t end = first_position + num_tokens;
  const int32_t num_known = prompt_len() + static_cast<int32_t>(generated_.size());
  check_internal(end <= num_known + (in_flight_token >= 0 ? 1 : 0), "request ", id_,
                 " has no token yet at position ", end - 1);
  const int32_t prompt_end = std::min(end, prompt_len());
  int32_t position = first_position;
  for (; position < prompt_end; ++position) *out++ = request_->input_ids[position];
  for (; position < std::min(end, num_known); ++position)
    *out++ = generated_[position - prompt_len()];
  if (position < end) *out = ~in_flight_token;
}

scheduler::SequenceView Sequence::view(int32_t num_blocks) const {
  return {.id = id_,
          .priority = request_->priority,
          .prompt_len = prompt_len(),
          .num_computed = num_computed_,
          .max_total_len = prompt_len() + max_new_tokens_,
          .num_blocks = num_blocks,
          .logits_of_prompt = request_->return_context_logits};
}

decoding::SampleRow Sequence::sample_row(int row, int32_t in_flight_token) const {
  return {.row = row,
          .sampling = &request_->sampling,
          .stop = &request_->stop,
          .biases = biases_,
          .prompt_ids = request_->input_ids,
          .generated_ids = generated_,
          .in_flight_token = in_flight_token};
}

void Sequence::scheduled(const scheduler::ScheduledSequence& part, int32_t row) {
  row_ = row;
  num_computed_ = part.first_position + part.num_tokens;
  ++num_steps_in_flight;
}

}  // namespace inflight::executor
