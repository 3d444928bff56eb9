// Builds Triton responses from the engine's parts, output_ids first. One writer a sequence; used on
// the engine's response thread only.
//
// A stream of ids gets a response a part, or shares those of its group; with log-probabilities or
// logits a response a token: clients of the former backend put those tensors one upon another. One
// for postprocessing is not sent further parts while the last waits there: they join, so that text
// which cannot keep up costs fewer responses, not a queue.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/receipts.h"
#include "backend/triton/request_reader.h"
#include "backend/triton/response_builder.h"
#include "backend/triton/response_groups.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class ResponseWriter {
 public:
  /// The factory, of the request that the sequence is part of, outlives it.
  ResponseWriter(TRITONBACKEND_ResponseFactory* factory, ReplyOptions reply,
                 std::shared_ptr<const executor::Request> request, const Receipts& receipts,
                 ResponseGroups& groups);

  /// Sends a part, or keeps it for the next one, or for its group's next response; an error as an
  /// error response. Answers whether it was sent. Raises Error if the server refuses a response.
  /// `public_id` names the sequence in response_state. `ends_request`: the part
  /// is final and the request has no other sequence that runs: it goes out with the request's final
  /// flag, which always reaches the client.
  bool send(executor::Response part, uint64_t public_id, bool ends_request);

  /// Whether a part of the answer did not reach the client: its end must be an error then.
  bool has_lost_part() const { return lost_.is_lost; }

  /// The reader of the stream is not done with its last part.
  bool is_waited_for(uint64_t public_id) const;

  /// Whether the client is the ensemble with a relay behind this model.
  bool wants_heartbeats() const { return wants_heartbeats_; }
  /// A response that holds nothing but the sequence's number. Raises Error if the server refuses
  /// it.
  void send_heartbeat(uint64_t public_id);

 private:
  bool send_or_keep(executor::Response part, uint64_t public_id, bool ends_request);
  void deliver(executor::Response part, uint64_t public_id, bool ends_request);
  void fill(ResponseBuilder& response, const executor::Response& part, uint64_t public_id) const;
  /// In every response of a request that asked, whatever outputs it listed.
  void add_perf_metrics(ResponseBuilder& response, const executor::Response& part) const;
  void add_logits(ResponseBuilder& response, const executor::Response& part) const;

  TRITONBACKEND_ResponseFactory* factory_;
  ReplyOptions reply_;
  std::shared_ptr<const executor::Request> request_;
  const Receipts& receipts_;
  ResponseGroups& groups_;
  const bool wants_heartbeats_;
  // The reader is postprocessing on this machine. Another one may be elsewhere: it is waited for
  // once it has told of the stream.
  const bool always_gets_receipts_;
  const bool sends_each_token_;
  const int64_t unix_offset_ns_;  // one for all times of a sequence, so that differences are true
  // Of a stream: the prompt's, told again at its end, where clients that keep the last response of
  // a stream look for them (the former backend sent them with each).
  std::vector<float> context_logits_;
  int32_t num_grouped_ = 0;  // ids that went out in its group's responses
  LostPart lost_;
  // Of a request with a text context only:
  std::vector<int32_t> previous_ids_;  // generated and sent so far
  std::optional<executor::Response> kept_;
  std::chrono::steady_clock::time_point last_sent_;
};

/// Sends a response without outputs: `unfilled`, or else a new one. Takes the error; null makes it
/// an empty one (stop commands).
void send_error(TRITONBACKEND_ResponseFactory* factory, TRITONSERVER_Error* error, bool is_final,
                ResponsePtr unfilled = nullptr);

}  // namespace inflight::triton
