#include "backend/triton/live_request.h"

#include <algorithm>

#include "backend/triton/triton_error.h"

namespace inflight::triton {

LiveRequest::LiveRequest(TRITONBACKEND_Request* from, uint64_t now_ns)
    : request(from), start_ns(now_ns) {
  check_triton(TRITONBACKEND_ResponseFactoryNew(&factory, request), "ResponseFactoryNew");
}

LiveRequest::~LiveRequest() { delete_factory(); }

void LiveRequest::delete_factory() {
  if (factory == nullptr) return;
  log_if_error(TRITONBACKEND_ResponseFactoryDelete(factory), "ResponseFactoryDelete");
  factory = nullptr;
}

void LiveRequest::add_sequences(const IncomingRequest& incoming, const Receipts& receipts,
                                ResponseGroups& groups) {
  id = incoming.id;
  for (const IncomingSequence& sequence : incoming.sequences) {
    sequences.emplace_back().writer = std::make_unique<ResponseWriter>(
        factory, sequence.reply, sequence.request, receipts, groups);
  }
  num_running = sequences.size();
  numbers.received_ns = static_cast<int64_t>(start_ns);
  for (const IncomingSequence& sequence : incoming.sequences) {
    const bool is_first_of_row = sequence.reply.sequence_index.value_or(0) == 0;
    if (is_first_of_row)
      numbers.input_tokens += static_cast<int64_t>(sequence.request->input_ids.size());
  }
}

void LiveRequest::count(size_t sequence, const executor::Response& part) {
  const auto num_tokens = static_cast<int64_t>(part.token_ids.size());
  int64_t& of_sequence = sequences[sequence].num_tokens;
  of_sequence += num_tokens;
  numbers.output_tokens += num_tokens;
  numbers.longest_output = std::max(numbers.longest_output, of_sequence);
  if (!part.is_final) return;
  executor::RequestTimes& times = numbers.times;
  const auto keep_earliest = [](int64_t& time, int64_t other) {
    if (time == 0 || (other != 0 && other < time)) time = other;
  };
  keep_earliest(times.first_scheduled_ns, part.times.first_scheduled_ns);
  keep_earliest(times.first_token_ns, part.times.first_token_ns);
  times.last_token_ns = std::max(times.last_token_ns, part.times.last_token_ns);
  numbers.is_cancelled |= part.finish_reason == executor::FinishReason::kCancelled;
}

bool LiveRequest::is_cancelled() const {
  bool cancelled = false;
  log_if_error(TRITONBACKEND_ResponseFactoryIsCancelled(factory, &cancelled),
               "ResponseFactoryIsCancelled");
  return cancelled;
}

}  // namespace inflight::triton
