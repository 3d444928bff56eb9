#include "backend/triton/response_writer.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <string>
#include <utility>

#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

/// After so long a part goes out although the last was not told of: postprocessing may have been
/// loaded anew, or two requests meet in a slot of the receipts.
constexpr std::chrono::seconds kPatience{1};

/// Two parts of one answer as one.
executor::Response joined(executor::Response first, executor::Response second) {
  second.token_ids.insert(second.token_ids.begin(), first.token_ids.begin(), first.token_ids.end());
  second.log_probs.insert(second.log_probs.begin(),
                          std::make_move_iterator(first.log_probs.begin()),
                          std::make_move_iterator(first.log_probs.end()));
  return second;
}

void add_output(TRITONBACKEND_Response* response, const char* name, TRITONSERVER_DataType type,
                std::initializer_list<int64_t> shape, const void* data, size_t num_bytes) {
  TRITONBACKEND_Output* output = nullptr;
  check_triton(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape.begin(),
                                            static_cast<uint32_t>(shape.size())),
               "ResponseOutput");
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  check_triton(TRITONBACKEND_OutputBuffer(output, &buffer, num_bytes, &memory, &memory_id),
               "OutputBuffer");
  if (num_bytes == 0) return;
  check_internal(memory != TRITONSERVER_MEMORY_GPU, "output ", name, " was given GPU memory");
  std::memcpy(buffer, data, num_bytes);
}

template <typename T>
void add_output(TRITONBACKEND_Response* response, const char* name, TRITONSERVER_DataType type,
                std::initializer_list<int64_t> shape, const std::vector<T>& values) {
  add_output(response, name, type, shape, values.data(), values.size() * sizeof(T));
}

}  // namespace

ResponseWriter::ResponseWriter(TRITONBACKEND_ResponseFactory* factory, ReplyOptions reply,
                               std::shared_ptr<const executor::Request> request,
                               const Receipts& receipts)
    : factory_(factory),
      reply_(std::move(reply)),
      request_(std::move(request)),
      receipts_(receipts) {}

bool ResponseWriter::wants(const char* output) const {
  return std::find(reply_.outputs.begin(), reply_.outputs.end(), output) != reply_.outputs.end();
}

bool ResponseWriter::is_waited_for(uint64_t public_id) const {
  if (previous_ids_.empty()) return false;
  const std::optional<uint32_t> told = receipts_.num_told(public_id);
  if (!told && !receipts_.in_use()) return false;
  return told.value_or(0) < previous_ids_.size() &&
         std::chrono::steady_clock::now() - last_sent_ < kPatience;
}

void ResponseWriter::send(executor::Response part, uint64_t public_id, bool ends_request) {
  if (kept_) {
    executor::Response kept = *std::exchange(kept_, std::nullopt);
    if (part.error)
      deliver(kept, public_id, /*ends_request=*/false);
    else
      part = joined(std::move(kept), std::move(part));
  }
  if (!part.is_final && is_waited_for(public_id))
    kept_ = std::move(part);
  else
    deliver(part, public_id, ends_request);
}

void ResponseWriter::deliver(const executor::Response& part, uint64_t public_id,
                             bool ends_request) {
  TRITONBACKEND_Response* response = nullptr;
  TRITONSERVER_Error* error = nullptr;
  if (part.error) {
    error = TRITONSERVER_ErrorNew(to_triton_code(part.error->code()),
                                  concat("Executor failed process requestId ", part.id,
                                         " due to the following error: ", part.error->what())
                                      .c_str());
  } else {
    try {
      response = build(part, public_id);
    } catch (const Error& failure) {
      if (!part.is_final) throw;
      error = TRITONSERVER_ErrorNew(
          TRITONSERVER_ERROR_INTERNAL,
          concat("Error encountered while populating response: ", failure.what()).c_str());
    }
  }
  if (error != nullptr) {
    send_error(factory_, error, ends_request);
    return;
  }
  const uint32_t flags = ends_request ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  check_triton(TRITONBACKEND_ResponseSend(response, flags, nullptr), "ResponseSend");
  if (!reply_.has_text_context) return;
  previous_ids_.insert(previous_ids_.end(), part.token_ids.begin(), part.token_ids.end());
  last_sent_ = std::chrono::steady_clock::now();
}

TRITONBACKEND_Response* ResponseWriter::build(const executor::Response& part,
                                              uint64_t public_id) const {
  std::vector<int32_t> ids;
  if (reply_.include_prompt) ids = request_->input_ids;
  ids.insert(ids.end(), part.token_ids.begin(), part.token_ids.end());
  const auto length = static_cast<int32_t>(ids.size());
  const auto num_new = static_cast<int64_t>(part.token_ids.size());

  TRITONBACKEND_Response* response = nullptr;
  check_triton(TRITONBACKEND_ResponseNewFromFactory(&response, factory_), "ResponseNewFromFactory");
  try {
    add_output(response, "output_ids", TRITONSERVER_TYPE_INT32, {1, 1, length}, ids);
    add_output(response, "sequence_length", TRITONSERVER_TYPE_INT32, {1, 1}, &length,
               sizeof(length));
    if (reply_.log_probs && wants("cum_log_probs"))
      add_output(response, "cum_log_probs", TRITONSERVER_TYPE_FP32, {1, 1},
                 &part.cumulative_log_prob, sizeof(float));
    if (reply_.log_probs && wants("output_log_probs")) {
      std::vector<float> chosen;
      for (const executor::TokenLogProbs& token : part.log_probs) chosen.push_back(token.chosen);
      add_output(response, "output_log_probs", TRITONSERVER_TYPE_FP32,
                 {1, 1, static_cast<int64_t>(chosen.size())}, chosen);
    }
    if (reply_.batch_index && wants("batch_index"))
      add_output(response, "batch_index", TRITONSERVER_TYPE_INT32, {1, 1}, &*reply_.batch_index,
                 sizeof(int32_t));
    if (reply_.sequence_index && wants("sequence_index"))
      add_output(response, "sequence_index", TRITONSERVER_TYPE_INT32, {1, 1},
                 &*reply_.sequence_index, sizeof(int32_t));
    if (reply_.has_text_context) {
      if (wants("text_context"))
        add_output(response, "text_context", TRITONSERVER_TYPE_UINT8,
                   {1, static_cast<int64_t>(reply_.text_context.size())}, reply_.text_context);
      if (wants("previous_ids"))
        add_output(response, "previous_ids", TRITONSERVER_TYPE_INT32,
                   {1, static_cast<int64_t>(previous_ids_.size())}, previous_ids_);
      if (wants("response_state"))
        add_output(
            response, "response_state", TRITONSERVER_TYPE_INT64, {1, 3},
            std::vector<int64_t>{static_cast<int64_t>(public_id), part.is_final ? 1 : 0, num_new});
    }
  } catch (...) {
    log_if_error(TRITONBACKEND_ResponseDelete(response), "ResponseDelete");
    throw;
  }
  return response;
}

void send_error(TRITONBACKEND_ResponseFactory* factory, TRITONSERVER_Error* error, bool is_final) {
  const uint32_t flags = is_final ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  TRITONBACKEND_Response* response = nullptr;
  TRITONSERVER_Error* failed = TRITONBACKEND_ResponseNewFromFactory(&response, factory);
  if (failed == nullptr) {
    log_if_error(TRITONBACKEND_ResponseSend(response, flags, error), "ResponseSend");
  } else {
    log_if_error(failed, "ResponseNewFromFactory");
    if (is_final)
      log_if_error(TRITONBACKEND_ResponseFactorySendFlags(factory, flags),
                   "ResponseFactorySendFlags");
  }
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

}  // namespace inflight::triton
