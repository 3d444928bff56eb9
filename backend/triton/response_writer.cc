#include "backend/triton/response_writer.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <utility>

#include "backend/triton/log_prob_rows.h"
#include "backend/triton/response_builder.h"
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
  for (auto logits : {&executor::Response::context_logits, &executor::Response::generation_logits})
    (second.*logits)
        .insert((second.*logits).begin(), (first.*logits).begin(), (first.*logits).end());
  return second;
}

/// Of each of its tokens a part; the first has the prompt's logits, the last the end.
std::vector<executor::Response> divided(executor::Response part, bool has_log_probs) {
  const size_t count = part.token_ids.size(), row = part.generation_logits.size() / count;
  std::vector<executor::Response> parts(count);
  float log_prob = part.cumulative_log_prob;
  for (size_t i = count; i-- > 0;) {
    executor::Response& one = parts[i];
    one.id = part.id;
    one.times = part.times;
    one.context_blocks = part.context_blocks;
    one.token_ids = {part.token_ids[i]};
    one.cumulative_log_prob = log_prob;
    if (has_log_probs) {
      log_prob -= part.log_probs[i].chosen;
      one.log_probs.push_back(std::move(part.log_probs[i]));
    }
    const auto logits = part.generation_logits.begin() + static_cast<std::ptrdiff_t>(i * row);
    one.generation_logits.assign(logits, logits + static_cast<std::ptrdiff_t>(row));
  }
  parts.front().context_logits = std::move(part.context_logits);
  parts.back().is_final = part.is_final;
  parts.back().finish_reason = part.finish_reason;
  parts.back().matched_ids = std::move(part.matched_ids);
  return parts;
}

/// From the steady clock's nanoseconds to those since the Unix epoch.
int64_t unix_offset_ns() {
  using std::chrono::duration_cast, std::chrono::nanoseconds;
  const auto steady = std::chrono::steady_clock::now().time_since_epoch();
  const auto epoch = std::chrono::system_clock::now().time_since_epoch();
  return duration_cast<nanoseconds>(epoch).count() - duration_cast<nanoseconds>(steady).count();
}

/// The words of the OpenAI API and of vLLM; empty while the sequence goes on.
const char* word_of(executor::FinishReason reason) {
  switch (reason) {
    case executor::FinishReason::kEndId:
    case executor::FinishReason::kStopWord:
      return "stop";
    case executor::FinishReason::kLength:
      return "length";
    case executor::FinishReason::kDeadline:
      return "deadline";
    case executor::FinishReason::kCancelled:
      return "cancelled";
    case executor::FinishReason::kNone:
    case executor::FinishReason::kError:
      break;
  }
  return "";
}

std::string joined_text(const std::vector<int32_t>& ids) {
  std::string text;
  for (int32_t id : ids) {
    if (!text.empty()) text += ' ';
    text += std::to_string(id);
  }
  return text;
}

}  // namespace

ResponseWriter::ResponseWriter(TRITONBACKEND_ResponseFactory* factory, ReplyOptions reply,
                               std::shared_ptr<const executor::Request> request,
                               const Receipts& receipts, ResponseGroups& groups)
    : factory_(factory),
      reply_(std::move(reply)),
      request_(std::move(request)),
      receipts_(receipts),
      groups_(groups),
      wants_heartbeats_(reply_.has_text_context &&
                        std::ranges::find(reply_.outputs, "heartbeat") != reply_.outputs.end()),
      always_gets_receipts_(std::ranges::find(reply_.outputs, "text_context") !=
                            reply_.outputs.end()),
      sends_each_token_(reply_.streaming && !reply_.has_text_context && !reply_.group &&
                        (reply_.log_probs || request_->return_generation_logits)),
      unix_offset_ns_(unix_offset_ns()) {}

bool ResponseWriter::is_waited_for(uint64_t public_id) const {
  if (previous_ids_.empty()) return false;
  const std::optional<uint32_t> told = receipts_.num_told(public_id);
  if (!told && !(always_gets_receipts_ && receipts_.in_use())) return false;
  return told.value_or(0) < previous_ids_.size() &&
         std::chrono::steady_clock::now() - last_sent_ < kPatience;
}

bool ResponseWriter::send(executor::Response part, uint64_t public_id, bool ends_request) {
  try {
    return send_or_keep(std::move(part), public_id, ends_request);
  } catch (...) {
    lost_.is_lost = true;
    throw;
  }
}

bool ResponseWriter::send_or_keep(executor::Response part, uint64_t public_id, bool ends_request) {
  if (kept_) {
    executor::Response kept = *std::exchange(kept_, std::nullopt);
    if (!part.error)
      part = joined(std::move(kept), std::move(part));
    else if (!wants_heartbeats_)  // an ensemble must not be at work when it fails
      deliver(std::move(kept), public_id, /*ends_request=*/false);
  }
  if (!part.is_final && is_waited_for(public_id)) {
    kept_ = std::move(part);
    return false;
  }
  if (sends_each_token_ && part.token_ids.size() > 1 && !part.error) {
    for (executor::Response& one : divided(std::move(part), reply_.log_probs)) {
      const bool is_last = one.is_final;
      deliver(std::move(one), public_id, is_last && ends_request);
    }
    return true;
  }
  deliver(std::move(part), public_id, ends_request);
  return true;
}

void ResponseWriter::send_heartbeat(uint64_t public_id) {
  ResponseBuilder response(factory_, reply_.outputs, lost_.unfilled);
  response.add("heartbeat", static_cast<int64_t>(public_id));
  check_triton(TRITONBACKEND_ResponseSend(response.take().release(), 0, nullptr), "ResponseSend");
}

void ResponseWriter::deliver(executor::Response part, uint64_t public_id, bool ends_request) {
  if (reply_.group && !part.is_final) {
    const auto num_new = static_cast<int32_t>(part.token_ids.size());
    groups_.add(*reply_.group, num_grouped_, factory_, std::move(part), reply_.num_top_log_probs,
                lost_);
    num_grouped_ += num_new;
    return;
  }
  if (part.is_final && part.context_logits.empty())
    part.context_logits = std::move(context_logits_);
  else if (!part.is_final && !part.context_logits.empty())
    context_logits_ = part.context_logits;
  std::optional<ResponseBuilder> response;
  TRITONSERVER_Error* error = nullptr;
  if (part.error) {
    error = TRITONSERVER_ErrorNew(to_triton_code(part.error->code()),
                                  concat("Executor failed process requestId ", part.id,
                                         " due to the following error: ", part.error->what())
                                      .c_str());
  } else {
    try {
      response.emplace(factory_, reply_.outputs, lost_.unfilled);
      fill(*response, part, public_id);
    } catch (const Error& failure) {
      response.reset();
      if (!part.is_final) throw;
      lost_.is_lost = true;
      error = TRITONSERVER_ErrorNew(
          TRITONSERVER_ERROR_INTERNAL,
          concat("Error encountered while populating response: ", failure.what()).c_str());
    }
  }
  if (error != nullptr) {
    send_error(factory_, error, ends_request, std::move(lost_.unfilled));
    return;
  }
  const uint32_t flags = ends_request ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  check_triton(TRITONBACKEND_ResponseSend(response->take().release(), flags, nullptr),
               "ResponseSend");
  if (!reply_.has_text_context) return;
  previous_ids_.insert(previous_ids_.end(), part.token_ids.begin(), part.token_ids.end());
  last_sent_ = std::chrono::steady_clock::now();
}

void ResponseWriter::fill(ResponseBuilder& response, const executor::Response& part,
                          uint64_t public_id) const {
  std::vector<int32_t> ids;
  if (reply_.include_prompt) ids = reply_.prompt.empty() ? request_->input_ids : reply_.prompt;
  ids.insert(ids.end(), part.token_ids.begin(), part.token_ids.end());
  const auto length = static_cast<int32_t>(ids.size());
  const auto num_new = static_cast<int64_t>(part.token_ids.size());

  response.add("output_ids", {1, 1, length}, ids);
  response.add("sequence_length", length);
  if (reply_.log_probs) {
    response.add("cum_log_probs", part.cumulative_log_prob);
    const auto num_log_probs = static_cast<int64_t>(part.log_probs.size());
    response.add("output_log_probs", {1, 1, num_log_probs}, chosen_log_probs(part.log_probs));
    if (const int64_t count = reply_.num_top_log_probs; count > 0) {
      const TopLogProbs top(part.log_probs, count);
      response.add("top_log_prob_ids", {1, 1, num_log_probs, count}, top.ids);
      response.add("top_log_probs", {1, 1, num_log_probs, count}, top.values);
    }
  }
  add_logits(response, part);
  if (reply_.batch_index) response.add("batch_index", *reply_.batch_index);
  if (reply_.sequence_index) response.add("sequence_index", *reply_.sequence_index);
  if (reply_.num_input_tokens)
    response.add("num_input_tokens", static_cast<int32_t>(request_->input_ids.size()));
  if (reply_.num_output_tokens) response.add("num_output_tokens", length);
  if (reply_.finish_reason) response.add_text("finish_reason", word_of(part.finish_reason));
  if (reply_.stop_reason) response.add_text("stop_reason", joined_text(part.matched_ids));
  if (reply_.group) response.add_always("group_begins", num_grouped_);
  if (reply_.perf_metrics) add_perf_metrics(response, part);
  if (reply_.has_text_context) {
    response.add("text_context", {1, static_cast<int64_t>(reply_.text_context.size())},
                 reply_.text_context);
    response.add("previous_ids", {1, static_cast<int64_t>(previous_ids_.size())}, previous_ids_);
    response.add("response_state", {1, 3},
                 std::vector<int64_t>{static_cast<int64_t>(public_id), part.is_final, num_new});
  }
}

void ResponseWriter::add_logits(ResponseBuilder& response, const executor::Response& part) const {
  const auto add = [&](const char* name, std::initializer_list<int64_t> shape,
                       const std::vector<float>& values, bool as_fp16) {
    as_fp16 ? response.add_fp16(name, shape, values) : response.add(name, shape, values);
  };
  // In every response of a request that asked, without rows where there is nothing to tell: clients
  // look for what they listed in each.
  const int64_t vocab_size = reply_.vocab_size;
  if (request_->return_context_logits) {
    const auto length = static_cast<int64_t>(part.context_logits.size()) / vocab_size;
    add("context_logits", {1, length, vocab_size}, part.context_logits,
        reply_.context_logits_are_fp16);
  }
  if (request_->return_generation_logits) {
    const auto length = static_cast<int64_t>(part.generation_logits.size()) / vocab_size;
    // A stream has the beams, of which there is one, behind the tokens.
    const int64_t before = reply_.streaming ? length : 1, behind = reply_.streaming ? 1 : length;
    add("generation_logits", {1, before, behind, vocab_size}, part.generation_logits,
        reply_.generation_logits_are_fp16);
  }
}

void ResponseWriter::add_perf_metrics(ResponseBuilder& response,
                                      const executor::Response& part) const {
  const auto unix_ns = [this](int64_t steady_ns) {
    return steady_ns == 0 ? int64_t{0} : steady_ns + unix_offset_ns_;
  };
  response.add_always("kv_cache_alloc_new_blocks", part.context_blocks.allocated);
  response.add_always("kv_cache_reused_blocks", part.context_blocks.reused);
  response.add_always("kv_cache_alloc_total_blocks", part.context_blocks.allocated);
  response.add_always("arrival_time_ns", unix_ns(part.times.arrival_ns));
  response.add_always("first_scheduled_time_ns", unix_ns(part.times.first_scheduled_ns));
  response.add_always("first_token_time_ns", unix_ns(part.times.first_token_ns));
  response.add_always("last_token_time_ns", unix_ns(part.times.last_token_ns));
  // No tokens are drafted in this version.
  response.add_always("acceptance_rate", 0.0f);
  response.add_always("total_accepted_draft_tokens", int32_t{0});
  response.add_always("total_draft_tokens", int32_t{0});
}

void send_error(TRITONBACKEND_ResponseFactory* factory, TRITONSERVER_Error* error, bool is_final,
                ResponsePtr unfilled) {
  const uint32_t flags = is_final ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  TRITONBACKEND_Response* response = unfilled.release();
  TRITONSERVER_Error* failed = nullptr;
  if (response == nullptr) failed = TRITONBACKEND_ResponseNewFromFactory(&response, factory);
  if (failed == nullptr) failed = TRITONBACKEND_ResponseSend(response, flags, error);
  if (failed != nullptr && is_final) {  // an end without its reason is one still
    log_if_error(TRITONBACKEND_ResponseFactorySendFlags(factory, flags),
                 "ResponseFactorySendFlags");
  }
  log_if_error(failed, "error response");
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

}  // namespace inflight::triton
