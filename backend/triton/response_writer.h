// Builds Triton responses from the engine's parts, output_ids first. One writer a request; used on
// the engine's response thread only.
//
// A stream of ids gets a response a part. One for postprocessing is not sent further parts while
// the last waits there: they join, so that text which cannot keep up costs fewer responses, not a
// queue.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/receipts.h"
#include "backend/triton/request_reader.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class ResponseWriter {
 public:
  /// Takes the factory.
  ResponseWriter(TRITONBACKEND_ResponseFactory* factory, ReplyOptions reply,
                 std::shared_ptr<const executor::Request> request, const Receipts& receipts);
  ~ResponseWriter();
  ResponseWriter(const ResponseWriter&) = delete;
  ResponseWriter& operator=(const ResponseWriter&) = delete;

  /// Sends a part, or keeps it for the next one; the final one with the final flag, an error as an
  /// error response. Raises Error if the server refuses a response that is not final; a final one
  /// always reaches the client. `public_id` names the request in response_state.
  void send(executor::Response part, uint64_t public_id);
  bool is_cancelled() const;

 private:
  /// Postprocessing has a part that it has not made text of.
  bool is_waited_for(uint64_t public_id) const;
  void deliver(const executor::Response& part, uint64_t public_id);
  TRITONBACKEND_Response* build(const executor::Response& part, uint64_t public_id) const;
  bool wants(const char* output) const;

  TRITONBACKEND_ResponseFactory* factory_;
  ReplyOptions reply_;
  std::shared_ptr<const executor::Request> request_;
  const Receipts& receipts_;
  // Of a request with a text context only:
  std::vector<int32_t> previous_ids_;  // generated and sent so far
  std::optional<executor::Response> kept_;
  std::chrono::steady_clock::time_point last_sent_;
};

/// Ends a request that never reached the engine. Takes the error; null answers with an empty
/// response (stop commands).
void send_final(TRITONBACKEND_ResponseFactory* factory, TRITONSERVER_Error* error);

}  // namespace inflight::triton
