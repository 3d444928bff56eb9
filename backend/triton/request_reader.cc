#include "backend/triton/request_reader.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "backend/triton/input_tensors.h"
#include "backend/triton/retention_reader.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"
#include "kernels/core/log.h"

namespace inflight::triton {

namespace {

/// Sequences of a row: what one request may have the engine queue, and nothing else bounds.
constexpr int32_t kMaxSequences = 1024;

int32_t read_num_top_log_probs(const Inputs& inputs, const ReaderOptions& options) {
  const int32_t count = inputs.scalar<int32_t>("num_top_log_probs").value_or(0);
  check(count >= 0 && count <= options.vocab_size, "num_top_log_probs is ", count,
        ", expected at least 0 and at most ", options.vocab_size, ", the vocabulary");
  return count;
}

decoding::SamplingParams read_sampling(const Inputs& inputs, const ReaderOptions& options) {
  decoding::SamplingParams sampling;
  const std::optional<int32_t> top_k = inputs.scalar<int32_t>("runtime_top_k");
  std::optional<float> top_p = inputs.scalar<float>("runtime_top_p");
  if (top_p && *top_p <= 0.0f) top_p.reset();  // any value <= 0 means unset
  sampling.temperature = inputs.scalar<float>("temperature").value_or(1.0f);
  sampling.top_k = top_k.value_or(0);
  sampling.top_p = top_p.value_or(1.0f);
  sampling.min_p = inputs.scalar<float>("min_p").value_or(0.0f);
  // A temperature alone does not turn sampling on.
  sampling.greedy = sampling.top_k == 0 && !top_p && sampling.min_p == 0.0f;
  sampling.repetition_penalty = inputs.scalar<float>("repetition_penalty").value_or(1.0f);
  sampling.presence_penalty = inputs.scalar<float>("presence_penalty").value_or(0.0f);
  sampling.frequency_penalty = inputs.scalar<float>("frequency_penalty").value_or(0.0f);
  sampling.top_p_decay = inputs.scalar<float>("runtime_top_p_decay").value_or(1.0f);
  sampling.top_p_min = inputs.scalar<float>("runtime_top_p_min").value_or(0.0f);
  sampling.top_p_reset_id = inputs.scalar<int32_t>("runtime_top_p_reset_ids").value_or(-1);
  sampling.prompt_ignore_length = inputs.scalar<int32_t>("prompt_ignore_length").value_or(0);
  sampling.no_repeat_ngram_size = inputs.scalar<int32_t>("no_repeat_ngram_size").value_or(0);
  sampling.embedding_bias = inputs.floats("embedding_bias");
  sampling.normalize_log_probs = options.normalize_log_probs;
  sampling.seed = inputs.scalar_of<uint64_t>("seed", "random_seed").value_or(0);
  sampling.num_logprobs =
      inputs.flag("return_log_probs", false) ? read_num_top_log_probs(inputs, options) : -1;
  return sampling;
}

std::vector<std::vector<int32_t>> read_words(const Inputs& inputs, const ReaderOptions& options,
                                             const std::string& name) {
  const std::vector<int32_t> values = inputs.values<int32_t>(name);
  auto words = parse_word_list(name, values.data(), static_cast<int64_t>(values.size()));
  for (const std::vector<int32_t>& word : words)
    for (const int32_t id : word)
      check(id >= 0 && id < options.vocab_size, name, " holds token id ", id,
            ", which is outside the vocabulary [0, ", options.vocab_size, ")");
  return words;
}

/// `end_id`, the ids of `end_ids`, and the model's own if one of these is among them; -1 is none.
std::vector<int32_t> read_end_ids(const Inputs& inputs, const ReaderOptions& options) {
  std::vector<int32_t> end_ids = inputs.values<int32_t>("end_ids");
  const int32_t end_id = inputs.scalar<int32_t>("end_id").value_or(-1);
  const auto check_id = [&](const char* name, int32_t id) {
    check(id >= -1 && id < options.vocab_size, name, " holds token id ", id,
          ", which is outside the vocabulary [0, ", options.vocab_size, ") and not -1 (none)");
  };
  for (const int32_t id : end_ids) check_id("end_ids", id);
  check_id("end_id", end_id);
  end_ids.push_back(end_id);
  const auto is_models = [&](int32_t id) {
    return std::ranges::find(options.model_end_ids, id) != options.model_end_ids.end();
  };
  if (std::ranges::any_of(end_ids, is_models))
    end_ids.insert(end_ids.end(), options.model_end_ids.begin(), options.model_end_ids.end());
  std::ranges::sort(end_ids);
  const auto repeated = std::ranges::unique(end_ids);
  end_ids.erase(repeated.begin(), repeated.end());
  std::erase(end_ids, -1);
  return end_ids;
}

decoding::StopParams read_stop(const Inputs& inputs, const ReaderOptions& options) {
  decoding::StopParams stop;
  const std::optional<int32_t> length = inputs.scalar<int32_t>("request_output_len");
  check(length.has_value(), "request_output_len is not present in the request");
  check(*length >= 1, "request_output_len is ", *length, ", expected at least 1");
  stop.max_new_tokens = *length;
  stop.min_new_tokens = inputs.scalar_of<int32_t>("min_tokens", "min_length").value_or(0);
  check(stop.min_new_tokens >= 0, inputs.has("min_tokens") ? "min_tokens" : "min_length", " is ",
        stop.min_new_tokens, ", expected at least 0");
  if (!inputs.flag("ignore_eos", false)) stop.end_ids = read_end_ids(inputs, options);
  stop.stop_words = read_words(inputs, options, "stop_words_list");
  stop.bad_words = read_words(inputs, options, "bad_words_list");
  return stop;
}

std::vector<std::string> requested_outputs(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestOutputCount(request, &count), "RequestOutputCount");
  std::vector<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    check_triton(TRITONBACKEND_RequestOutputName(request, i, &name), "RequestOutputName");
    names.emplace_back(name);
  }
  for (const char* required : {"output_ids", "sequence_length"})
    check(std::ranges::find(names, required) != names.end(),
          "the requested outputs must hold output_ids and sequence_length; ", required,
          " is missing");
  return names;
}

/// A group's responses hold ids and log-probabilities, each sequence's under one number.
std::optional<GroupPlace> read_group(const Inputs& inputs) {
  const std::vector<int64_t> place = inputs.values<int64_t>("response_group");
  if (place.empty()) return std::nullopt;
  check(place.size() == 2, "response_group has ", place.size(),
        " numbers, expected 2: the group and the request's number in it");
  for (const char* other : {"return_context_logits", "return_generation_logits"})
    check(!inputs.flag(other, false), "response_group together with ", other,
          " is not supported: leave one of them out");
  check(!inputs.has("text_context"),
        "response_group together with text_context is not supported: leave one of them out");
  check(inputs.num_rows() == 1 && inputs.scalar<int32_t>("num_return_sequences").value_or(1) == 1,
        "response_group is for requests of one sequence; this one has ", inputs.num_rows(),
        " rows and ", inputs.scalar<int32_t>("num_return_sequences").value_or(1), " of each");
  return GroupPlace{place[0], place[1]};
}

ReplyOptions read_reply(const Inputs& inputs, const ReaderOptions& options) {
  ReplyOptions reply;
  reply.streaming = inputs.flag("streaming", false);
  check(!reply.streaming || options.decoupled,
        "streaming needs a model with decoupled transactions; this one is not decoupled");
  const bool exclude = inputs.flag("exclude_input_in_output", options.exclude_input_in_output);
  reply.include_prompt = !reply.streaming && !exclude;
  reply.log_probs = inputs.flag("return_log_probs", false);
  reply.num_top_log_probs = read_num_top_log_probs(inputs, options);
  check(reply.log_probs || reply.num_top_log_probs == 0, "num_top_log_probs is ",
        reply.num_top_log_probs, " without return_log_probs, expected both");
  reply.num_input_tokens = inputs.flag("return_num_input_tokens", false);
  reply.num_output_tokens = inputs.flag("return_num_output_tokens", false);
  reply.perf_metrics = inputs.flag("return_perf_metrics", false) ||
                       inputs.flag("return_kv_cache_reuse_stats", false);
  reply.finish_reason = inputs.flag("return_finish_reason", false);
  reply.stop_reason = inputs.flag("return_stop_reason", false);
  reply.vocab_size = options.vocab_size;
  reply.context_logits_are_fp16 = options.context_logits_are_fp16;
  reply.generation_logits_are_fp16 = options.generation_logits_are_fp16;
  reply.text_context = inputs.values<uint8_t>("text_context");
  reply.has_text_context = !reply.text_context.empty();
  if (inputs.num_rows() > 1) reply.batch_index = static_cast<int32_t>(inputs.row());
  reply.group = read_group(inputs);
  return reply;
}

/// The prompt of a row. Rows of a batch are padded to the longest; alone, a prompt is as long as
/// its tensor, whatever input_lengths says.
std::vector<int32_t> read_prompt(const Inputs& inputs) {
  std::vector<int32_t> ids = inputs.values<int32_t>("input_ids");
  check(!ids.empty(), "input_ids is not present in the request or empty");
  if (inputs.num_rows() == 1) return ids;
  const std::optional<int32_t> length = inputs.scalar<int32_t>("input_lengths");
  check(length.has_value(), "input_lengths is not present in the request");
  check(*length >= 1 && static_cast<size_t>(*length) <= ids.size(), "input_lengths[", inputs.row(),
        "] is ", *length, ", expected at least 1 and at most ", ids.size(),
        ", the length of the row");
  ids.resize(*length);
  return ids;
}

/// Steady-clock time by which the request wants to have ended.
std::optional<std::chrono::steady_clock::time_point> read_deadline(
    const Inputs& inputs, std::chrono::milliseconds otherwise) {
  const std::optional<int32_t> asked = inputs.scalar<int32_t>("timeout_ms");
  check(!asked || *asked >= 1, "timeout_ms is ", asked.value_or(0), "; it must be at least 1");
  const auto timeout = asked ? std::chrono::milliseconds(*asked) : otherwise;
  if (timeout.count() == 0) return std::nullopt;
  return std::chrono::steady_clock::now() + timeout;
}

/// Ids that no vocabulary has, where they are allowed: the engine takes them if they are not below
/// 0, where it keeps its notes of tokens in flight. Answers the ids as they were, if any changed.
std::vector<int32_t> replace_negative_ids(executor::Request& request) {
  if (!request.allow_unknown_ids ||
      std::ranges::none_of(request.input_ids, [](int32_t id) { return id < 0; }))
    return {};
  std::vector<int32_t> given = request.input_ids;
  for (int32_t& id : request.input_ids)
    if (id < 0) id = std::numeric_limits<int32_t>::max();
  return given;
}

/// Of the request; empty if it is absent or no text.
std::string text_parameter(TRITONBACKEND_Request* request, std::string_view name) {
  uint32_t count = 0;
  check_triton(TRITONBACKEND_RequestParameterCount(request, &count), "RequestParameterCount");
  for (uint32_t i = 0; i < count; ++i) {
    const char* key = nullptr;
    const void* value = nullptr;
    TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
    check_triton(TRITONBACKEND_RequestParameter(request, i, &key, &type, &value),
                 "RequestParameter");
    if (key == name && type == TRITONSERVER_PARAMETER_STRING)
      return static_cast<const char*>(value);
  }
  return {};
}

/// Only one kind of request is served: context and generation of a prompt together.
void check_request_type(TRITONBACKEND_Request* request) {
  const std::string kind = text_parameter(request, "request_type");
  if (kind == "context_only" || kind == "generation_only")
    throw Error(ErrorCode::kUnsupported,
                concat("request_type is ", kind,
                       "; context and generation in different engines are not supported yet"));
  if (!kind.empty() && kind != "context_and_generation")
    log(LogLevel::kWarning, "request_type \"", kind,
        "\" is unknown; it is taken for context_and_generation");
}

executor::Request read_body(const Inputs& inputs, const ReaderOptions& options,
                            const std::string& id) {
  executor::Request body;
  body.client_id = id;
  body.input_ids = read_prompt(inputs);
  body.allow_unknown_ids = options.allow_unknown_ids;
  body.sampling = read_sampling(inputs, options);
  body.stop = read_stop(inputs, options);
  body.streaming = inputs.flag("streaming", false);
  body.return_context_logits = inputs.flag("return_context_logits", false);
  body.return_generation_logits = inputs.flag("return_generation_logits", false);
  // Smaller runs first, as with Triton's priorities and vLLM's.
  const int32_t priority = inputs.scalar<int32_t>("priority").value_or(0);
  check(priority != std::numeric_limits<int32_t>::min(), "priority is ", priority,
        "; it must be at least ", std::numeric_limits<int32_t>::min() + 1);
  body.priority = -priority;
  body.deadline = read_deadline(inputs, options.request_timeout);
  body.kv_retention = read_retention(inputs);
  body.cache_scope.cache_salt = inputs.text("cache_salt").value_or("");
  return body;
}

/// The sequences of one row: the same request with seeds that follow each other.
void add_sequences(const Inputs& inputs, const ReaderOptions& options, IncomingRequest& incoming,
                   const std::vector<std::string>& outputs) {
  const int32_t count = inputs.scalar<int32_t>("num_return_sequences").value_or(1);
  check(count >= 1, "num_return_sequences is ", count, "; it must be at least 1");
  check(count == 1 || options.decoupled, "num_return_sequences is ", count,
        "; several sequences need a model with decoupled transactions; this one is not decoupled");
  check(count <= kMaxSequences, "num_return_sequences is ", count, "; it must be at most ",
        kMaxSequences);
  executor::Request body = read_body(inputs, options, incoming.id);
  body.tenant = incoming.tenant;
  const std::vector<int32_t> given_ids = replace_negative_ids(body);
  for (int32_t i = 0; i < count; ++i) {
    IncomingSequence& sequence = incoming.sequences.emplace_back();
    sequence.reply = read_reply(inputs, options);
    sequence.reply.outputs = outputs;
    sequence.reply.prompt = given_ids;
    if (count > 1) sequence.reply.sequence_index = i;
    auto request = std::make_shared<executor::Request>(body);
    request->sampling.seed += static_cast<uint64_t>(i);
    sequence.request = std::move(request);
  }
}

}  // namespace

std::vector<std::vector<int32_t>> parse_word_list(const std::string& name, const int32_t* values,
                                                  int64_t num_values) {
  check(num_values % 2 == 0, "sparse list ", name, " has ", num_values,
        " elements, expected an even number");
  const int64_t row_length = num_values / 2;
  const int32_t* ends = values + row_length;
  std::vector<std::vector<int32_t>> words;
  int64_t begin = 0;
  bool ended = false;
  for (int64_t i = 0; i < row_length; ++i) {
    if (ends[i] == -1) {
      ended = true;
      continue;
    }
    check(!ended, "sparse list ", name, " has offset ", ends[i], " after the first -1");
    check(ends[i] > begin, "sparse list ", name, " has offset ", ends[i], " after offset ", begin,
          ", expected increasing offsets");
    check(ends[i] <= row_length, "sparse list ", name, " has offset ", ends[i],
          " beyond its length of ", row_length);
    words.emplace_back(values + begin, values + ends[i]);
    begin = ends[i];
  }
  return words;
}

IncomingRequest read_request(TRITONBACKEND_Request* request, const ReaderOptions& options) {
  IncomingRequest incoming;
  const char* id = nullptr;
  check_triton(TRITONBACKEND_RequestId(request, &id), "RequestId");
  incoming.id = id == nullptr ? "" : id;

  const InputTensors tensors(request, options.has_batch_dim);
  const Inputs first(tensors);
  incoming.stop = first.flag("stop", false);
  incoming.engine_request_id = first.scalar<uint64_t>("engine_request_id").value_or(0);
  if (incoming.stop) {  // the other tensors are dummies
    check(!incoming.id.empty() || incoming.engine_request_id != 0,
          "cannot stop a request: the request ID is not provided");
    return incoming;
  }
  incoming.events_after = first.scalar<int64_t>("kv_cache_events_after");
  if (incoming.events_after) {  // likewise
    incoming.streaming = first.flag("streaming", false);
    incoming.timeout_ms = first.scalar<int32_t>("timeout_ms");
    check(!incoming.streaming || options.decoupled,
          "a stream of cache events needs a model with decoupled transactions; this one is not "
          "decoupled");
    return incoming;
  }

  check(tensors.num_rows() == 1 || options.decoupled, "a batch of ", tensors.num_rows(),
        " rows needs a model with decoupled transactions; this one is not decoupled");
  refuse_unsupported(tensors);
  check_request_type(request);
  incoming.tenant = text_parameter(request, "tenant");
  const std::vector<std::string> outputs = requested_outputs(request);
  for (int64_t row = 0; row < tensors.num_rows(); ++row)
    add_sequences(Inputs(tensors, row), options, incoming, outputs);
  return incoming;
}

}  // namespace inflight::triton
