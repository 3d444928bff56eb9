// The engine's mutable side of a request: to what planning knows of it
// (planning/planned_sequence.h) it adds the request, which stays as the user gave it, and who hears
// of its end. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "backend/decoding/sampler.h"
#include "backend/executor/request.h"
#include "backend/executor/response_queue.h"
#include "backend/planning/planned_sequence.h"

namespace inflight::executor {

/// A request that submit has accepted.
struct Arrival {
  RequestId id = 0;
  std::shared_ptr<const Request> request;
  std::unique_ptr<ResponseChannel> channel;
  int max_new_tokens = 0;  // the request's, shortened to what max_seq_len leaves
  int64_t arrival_ns = 0;
  // Of an earlier one with its prompt and scope, which it waits for, to share what that computes.
  RequestId twin_id = 0;  // 0: none
};

class Sequence : public planning::PlannedSequence {
 public:
  /// `channel` is the arrival's, owned by the response queue now. What is generated lies in
  /// `memory`, which outlives it.
  Sequence(Arrival arrival, ResponseChannel& channel, std::pmr::memory_resource* memory);

  const Request& request() const { return *request_; }
  int64_t arrival_ns() const { return arrival_ns_; }

  /// Ids of [first_position, first_position + num_tokens) into `out`; generated ones must be known
  /// but for the newest, which is then ~in_flight_token.
  void copy_ids(int32_t first_position, int32_t num_tokens, int32_t in_flight_token,
                int32_t* out) const;
  /// What the sampler wants to know to draw its next token from `row` of the logits.
  decoding::SampleRow sample_row(int row, int32_t in_flight_token) const;

  ResponseChannel* channel;     // null once it has ended
  bool has_left_queue = false;  // the inbox counts it no longer
  int64_t deadline_key_ns = 0;  // under which it stands among the deadlines

 private:
  std::shared_ptr<const Request> request_;
  std::vector<decoding::TokenBias> biases_;
  int64_t arrival_ns_;
};

}  // namespace inflight::executor
