// Turns a Triton request into an executor::Request, a stop command, or an Error that names tensor,
// value and limit. Reads input tensors by the schema table; runs on Triton's thread, keeps nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// What of the model's configuration decides how a request is read.
struct ReaderOptions {
  bool decoupled = false;
  bool exclude_input_in_output = false;  // unless the request says otherwise
  bool has_batch_dim = true;             // max_batch_size > 0
};

/// How the answer is to look; immutable once read.
struct ReplyOptions {
  bool streaming = false;
  bool include_prompt = false;
  bool log_probs = false;
  bool has_text_context = false;
  std::vector<uint8_t> text_context;  // opaque, sent back with every response
  std::vector<std::string> outputs;   // asked for by the client, or all of the model's
};

struct IncomingRequest {
  std::string id;  // the client's; may be empty, may repeat
  bool stop = false;
  uint64_t engine_request_id = 0;              // with `stop`: this one request only; 0 = not given
  bool client_left = false;                    // with `stop`: nobody waits for the answer
  std::shared_ptr<executor::Request> request;  // null for a stop command
  ReplyOptions reply;
};

IncomingRequest read_request(TRITONBACKEND_Request* request, const ReaderOptions& options);

/// [2, N] flattened ids over end offsets -> one list a word. `name` is for messages.
std::vector<std::vector<int32_t>> parse_word_list(const std::string& name, const int32_t* values,
                                                  int64_t num_values);

}  // namespace inflight::triton
