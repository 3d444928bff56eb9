// The engine's mutable side of a request: what it has generated, what of it lies in the cache, how
// it ends. Engine thread only. The request itself stays as the user gave it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/decoding/sampler.h"
#include "backend/executor/request.h"
#include "backend/executor/response_queue.h"
#include "backend/kv_cache/prefix.h"
#include "backend/kv_cache/reservation.h"
#include "backend/scheduler/step.h"
#include "backend/scheduler/view.h"

namespace inflight::executor {

/// A request that submit has accepted.
struct Arrival {
  RequestId id = 0;
  std::shared_ptr<const Request> request;
  std::unique_ptr<ResponseChannel> channel;
  int max_new_tokens = 0;  // the request's, shortened to what max_seq_len leaves
  int64_t arrival_ns = 0;
};

class Sequence {
 public:
  /// `channel` is the arrival's, owned by the response queue now.
  Sequence(Arrival arrival, ResponseChannel& channel);

  RequestId id() const { return id_; }
  const Request& request() const { return *request_; }
  int32_t prompt_len() const { return static_cast<int32_t>(request_->input_ids.size()); }
  std::span<const int32_t> generated() const { return generated_; }
  /// Of both, those that are known.
  kv_cache::TokenView tokens() const { return {request_->input_ids, generated_}; }
  int max_new_tokens() const { return max_new_tokens_; }
  int64_t arrival_ns() const { return arrival_ns_; }

  /// Ids of [first_position, first_position + num_tokens) into `out`; generated ones must be known
  /// but for the newest, which is then ~in_flight_token.
  void copy_ids(int32_t first_position, int32_t num_tokens, int32_t in_flight_token,
                int32_t* out) const;
  /// The scheduler's view of it, `num_blocks` of the cache being held.
  scheduler::SequenceView view(int32_t num_blocks) const;
  /// What the sampler wants to know to draw its next token from `row` of the logits.
  decoding::SampleRow sample_row(int row, int32_t in_flight_token) const;

  /// Whether the step in flight makes a token that is not known yet.
  bool has_token_in_flight() const {
    return num_computed_ >= prompt_len() &&
           num_computed_ - prompt_len() == static_cast<int32_t>(generated_.size());
  }
  /// Its row of the logits of the newest step that names it: where that step's token is.
  int32_t row() const { return row_; }
  /// Whether its next row cannot be prepared while its newest token is unknown: what may follow
  /// depends on it.
  bool needs_newest_token() const { return needs_newest_token_; }

  /// `row` of a step that will run.
  void scheduled(const scheduler::ScheduledSequence& part, int32_t row);
  void append(int32_t token) { generated_.push_back(token); }

  bool is_running() const { return table != kNoTable; }
  bool has_ended() const { return channel == nullptr; }

  static constexpr kv_cache::TableId kNoTable = -1;
  kv_cache::TableId table = kNoTable;  // set while it holds cache
  int32_t num_context_blocks = 0;      // that the chunks of its prompt have got so far
  int32_t num_steps_in_flight = 0;     // that name it; it is not released before they ended
  ResponseChannel* channel;            // null once it has ended

 private:
  RequestId id_;
  std::shared_ptr<const Request> request_;
  int max_new_tokens_;
  std::vector<decoding::TokenBias> biases_;
  int64_t arrival_ns_;
  bool needs_newest_token_;
  int32_t num_computed_ = 0;  // tokens in the cache after the steps in flight
  int32_t row_ = 0;
  std::vector<int32_t> generated_;
};

}  // namespace inflight::executor
