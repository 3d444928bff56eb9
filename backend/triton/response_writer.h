// Builds Triton responses from the engine's parts, output_ids first. One writer a request; used on
// the engine's response thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/request_reader.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class ResponseWriter {
 public:
  /// Takes the factory. `public_id` names the request in response_state.
  ResponseWriter(TRITONBACKEND_ResponseFactory* factory, ReplyOptions reply,
                 std::shared_ptr<const executor::Request> request);
  ~ResponseWriter();
  ResponseWriter(const ResponseWriter&) = delete;
  ResponseWriter& operator=(const ResponseWriter&) = delete;

  /// Sends a part; the final one with the final flag, an error as an error response. Raises Error
  /// if the server refuses a response that is not final; a final one always reaches the client.
  void send(const executor::Response& part, uint64_t public_id);
  bool is_cancelled() const;

 private:
  TRITONBACKEND_Response* build(const executor::Response& part, uint64_t public_id) const;
  bool wants(const char* output) const;

  TRITONBACKEND_ResponseFactory* factory_;
  ReplyOptions reply_;
  std::shared_ptr<const executor::Request> request_;
  std::vector<int32_t> previous_ids_;  // generated and sent so far; kept for a text context only
};

/// Ends a request that never reached the engine. Takes the error; null answers with an empty
/// response (stop commands).
void send_final(TRITONBACKEND_ResponseFactory* factory, TRITONSERVER_Error* error);

}  // namespace inflight::triton
