// A Triton request on its way through the engine: its response factory and its sequences, one for
// each row of its batch and each of num_return_sequences. It ends with the last of them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/metric_table.h"
#include "backend/triton/request_reader.h"
#include "backend/triton/response_writer.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// Between the end of a request whose client has left and its final response. A tritonserver before
/// 2.57 frees a gRPC stream's state twice if the final response comes while the stream's
/// cancellation is being handled, that is, while a response written before is still on its way
/// through the stream's queue of events. The blocks are free before this wait begins.
inline constexpr std::chrono::milliseconds kQuietTime{100};

struct LiveRequest {
  struct Sequence {
    executor::RequestId id = 0;  // 0 until queued; guarded by InstanceState's mutex
    bool done = false;           // guarded by InstanceState's mutex
    bool has_its_text = false;   // postprocessing found a stop word and ends it; likewise
    int64_t num_tokens = 0;      // generated, of the parts that have come; response thread
    std::unique_ptr<ResponseWriter> writer;
  };

  /// Raises Error if the server gives no factory.
  LiveRequest(TRITONBACKEND_Request* from, uint64_t now_ns);
  ~LiveRequest();
  LiveRequest(const LiveRequest&) = delete;
  LiveRequest& operator=(const LiveRequest&) = delete;

  void add_sequences(const IncomingRequest& incoming, const Receipts& receipts,
                     ResponseGroups& groups);
  bool nobody_listens() const { return client_left || is_cancelled(); }
  bool is_cancelled() const;
  /// Adds a part to the request's numbers; response thread.
  void count(size_t sequence, const executor::Response& part);
  /// Before the request is released.
  void delete_factory();

  TRITONBACKEND_Request* const request;
  const uint64_t start_ns;
  TRITONBACKEND_ResponseFactory* factory = nullptr;
  std::string id;  // may be empty, may repeat
  std::vector<Sequence> sequences;
  size_t num_running = 0;  // guarded by InstanceState's mutex
  // Told by the relay: an ensemble's cancellation does not reach the running step.
  std::atomic<bool> client_left = false;
  // When a response last told the ensemble's next step of the client; response thread.
  std::chrono::steady_clock::time_point last_heard = std::chrono::steady_clock::now();
  // Of an ensemble's: what failed first, told when all sequences have ended; response thread. Until
  // 26.02 the core keeps an ensemble for good that fails while one of its steps runs.
  std::optional<executor::Response> failure;
  bool has_spoken = false;  // a response went out; response thread
  ResponsePtr unfilled;     // cache events that the server had no room for: the error's response
  // Of the sequences that have ended; response thread.
  bool success = true;
  EndedRequest numbers;  // what the metrics observe at the end
};

}  // namespace inflight::triton
