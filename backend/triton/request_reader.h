// Turns a Triton request into an executor::Request, a stop command, or an Error that names tensor,
// value and limit. Reads input tensors by the schema table; runs on Triton's thread, keeps nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/response_groups.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// What of the model's configuration decides how a request is read.
struct ReaderOptions {
  bool decoupled = false;
  bool exclude_input_in_output = false;          // unless the request says otherwise
  bool normalize_log_probs = true;               // SamplingParams::normalize_log_probs
  bool has_batch_dim = true;                     // max_batch_size > 0
  std::chrono::milliseconds request_timeout{0};  // of a request without timeout_ms; 0 = none
  bool allow_unknown_ids = false;                // those outside the vocabulary embed as zeros
  // The model's own: a request that names one of them as its end_id ends at any. Empty: at that
  // one.
  std::vector<int32_t> model_end_ids;
  int vocab_size = 0;  // of the model: a row of logits
  // The outputs' types: FP16, or FP32.
  bool context_logits_are_fp16 = false;
  bool generation_logits_are_fp16 = false;
};

/// How the answer of one sequence is to look; immutable once read.
struct ReplyOptions {
  bool streaming = false;
  bool include_prompt = false;
  bool log_probs = false;
  int32_t num_top_log_probs = 0;  // with log_probs
  bool num_input_tokens = false;
  bool num_output_tokens = false;
  bool perf_metrics = false;
  int vocab_size = 0;  // a row of logits
  bool finish_reason = false;
  bool stop_reason = false;
  std::vector<int32_t> prompt;  // as the client gave it, where the engine is given other ids
  bool context_logits_are_fp16 = false;
  bool generation_logits_are_fp16 = false;
  bool has_text_context = false;
  std::vector<uint8_t> text_context;      // opaque, sent back with every response
  std::vector<std::string> outputs;       // asked for by the client, or all of the model's
  std::optional<int32_t> batch_index;     // the row, of a request with several
  std::optional<int32_t> sequence_index;  // of a row's, where num_return_sequences > 1
  std::optional<GroupPlace> group;        // whose responses its parts go out with
};

/// What the engine runs, and how its responses look.
struct IncomingSequence {
  std::shared_ptr<const executor::Request> request;
  ReplyOptions reply;
};

struct IncomingRequest {
  std::string id;  // may be empty, may repeat
  bool stop = false;
  std::string tenant;                       // the parameter "tenant" of the request
  uint64_t engine_request_id = 0;           // with `stop`: this one sequence only; 0 = not given
  std::optional<int64_t> events_after;      // a question for the cache's events after this one
  bool streaming = false;                   // with `events_after`: and for those to come
  std::optional<int32_t> timeout_ms;        // of such a stream
  std::vector<IncomingSequence> sequences;  // row by row; none for a command or a question
};

IncomingRequest read_request(TRITONBACKEND_Request* request, const ReaderOptions& options);

/// [2, N] flattened ids over end offsets -> one list a word. `name` is for messages.
std::vector<std::vector<int32_t>> parse_word_list(const std::string& name, const int32_t* values,
                                                  int64_t num_values);

}  // namespace inflight::triton
