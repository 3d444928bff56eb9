#include "backend/triton/request_schema.h"

namespace inflight::triton {

namespace {

constexpr auto kUsed = TensorSupport::kUsed;
constexpr auto kIgnored = TensorSupport::kIgnored;
constexpr auto kRefused = TensorSupport::kRefused;

// Flags of the rows below.
constexpr bool kOptional = true, kRequired = false;
constexpr bool kScalar = true, kTensor = false;
constexpr bool kRagged = true, kEven = false;

const std::vector<TensorSpec>& inputs() {
  // clang-format off
  static const std::vector<TensorSpec> table = {
      {"input_ids", "INT32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"input_lengths", "INT32", {1}, kRequired, kScalar, kEven, kUsed},
      {"request_output_len", "INT32", {1}, kRequired, kScalar, kEven, kUsed},
      {"end_id", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"end_ids", "INT32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"pad_id", "INT32", {1}, kOptional, kScalar, kEven, kIgnored},
      {"stop_words_list", "INT32", {2, -1}, kOptional, kTensor, kRagged, kUsed},
      {"bad_words_list", "INT32", {2, -1}, kOptional, kTensor, kRagged, kUsed},
      {"temperature", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"runtime_top_k", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"runtime_top_p", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"min_p", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"runtime_top_p_min", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"runtime_top_p_decay", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"runtime_top_p_reset_ids", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"repetition_penalty", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"presence_penalty", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"frequency_penalty", "FP32", {1}, kOptional, kScalar, kEven, kUsed},
      {"prompt_ignore_length", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"no_repeat_ngram_size", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"embedding_bias", "FP32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"min_tokens", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"min_length", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"seed", "UINT64", {1}, kOptional, kScalar, kEven, kUsed},
      {"random_seed", "UINT64", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_log_probs", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"num_top_log_probs", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_context_logits", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_generation_logits", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_perf_metrics", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_kv_cache_reuse_stats", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_num_input_tokens", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_num_output_tokens", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_finish_reason", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"return_stop_reason", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"exclude_input_in_output", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"num_return_sequences", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"streaming", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"stop", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"ignore_eos", "BOOL", {1}, kOptional, kScalar, kEven, kUsed},
      {"priority", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"timeout_ms", "INT32", {1}, kOptional, kScalar, kEven, kUsed},
      {"cache_salt", "STRING", {1}, kOptional, kScalar, kEven, kUsed},
      {"retention_token_range_starts", "INT32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"retention_token_range_ends", "INT32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"retention_token_range_priorities", "INT32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"retention_token_range_durations_ms", "INT32", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"retention_decode_priority", "INT32", {1}, kOptional, kTensor, kRagged, kUsed},
      {"retention_decode_duration_ms", "INT32", {1}, kOptional, kTensor, kRagged, kUsed},
      {"text_context", "UINT8", {-1}, kOptional, kTensor, kRagged, kUsed},
      {"engine_request_id", "UINT64", {1}, kOptional, kScalar, kEven, kUsed},
      {"kv_cache_events_after", "INT64", {1}, kOptional, kScalar, kEven, kUsed},
      {"response_group", "INT64", {2}, kOptional, kTensor, kRagged, kUsed},
      {"decoder_input_ids", "INT32", {-1}, kOptional, kTensor, kRagged, kIgnored},
      {"decoder_input_lengths", "INT32", {1}, kOptional, kScalar, kEven, kIgnored},
      {"len_penalty", "FP32", {1}, kOptional, kScalar, kEven, kIgnored},
      {"early_stopping", "BOOL", {1}, kOptional, kScalar, kEven, kIgnored},
      {"beam_search_diversity_rate", "FP32", {1}, kOptional, kScalar, kEven, kIgnored},
      {"beam_width", "INT32", {1}, kOptional, kScalar, kEven, kRefused, 1},
      {"encoder_input_features", "FP16", {-1, -1}, kOptional, kTensor, kRagged, kRefused},
      {"encoder_output_lengths", "INT32", {1}, kOptional, kScalar, kEven, kRefused, 0},
      {"draft_input_ids", "INT32", {-1}, kOptional, kTensor, kRagged, kRefused},
      {"draft_logits", "FP32", {-1, -1}, kOptional, kTensor, kRagged, kRefused},
      {"draft_acceptance_threshold", "FP32", {1}, kOptional, kScalar, kEven, kRefused, 0},
      {"prompt_embedding_table", "FP16", {-1, -1}, kOptional, kTensor, kRagged, kRefused},
      {"prompt_table_extra_ids", "UINT64", {-1}, kOptional, kTensor, kRagged, kRefused, 0},
      {"prompt_vocab_size", "INT32", {1}, kOptional, kScalar, kEven, kRefused, 0},
      {"cross_attention_mask", "BOOL", {-1, -1}, kOptional, kTensor, kRagged, kRefused},
      {"skip_cross_attn_blocks", "BOOL", {1}, kOptional, kTensor, kRagged, kRefused, 0},
      {"mrope_rotary_cos_sin", "FP32", {-1}, kOptional, kTensor, kEven, kRefused},
      {"mrope_position_deltas", "INT64", {1}, kOptional, kTensor, kEven, kRefused, 0},
      {"lora_task_id", "UINT64", {1}, kOptional, kScalar, kEven, kRefused, 0},
      {"lora_weights", "FP16", {-1, -1}, kOptional, kTensor, kRagged, kRefused},
      {"lora_config", "INT32", {-1, 3}, kOptional, kTensor, kRagged, kRefused},
      {"context_phase_params", "UINT8", {-1}, kOptional, kTensor, kRagged, kRefused},
      {"guided_decoding_guide_type", "STRING", {1}, kOptional, kTensor, kRagged, kRefused},
      {"guided_decoding_guide", "STRING", {1}, kOptional, kTensor, kRagged, kRefused},
      {"lookahead_window_size", "INT32", {1}, kOptional, kTensor, kRagged, kRefused, 0},
      {"lookahead_ngram_size", "INT32", {1}, kOptional, kTensor, kRagged, kRefused, 0},
      {"lookahead_verification_set_size", "INT32", {1}, kOptional, kTensor, kRagged, kRefused, 0},
  };
  // clang-format on
  return table;
}

const std::vector<TensorSpec>& outputs() {
  // clang-format off
  static const std::vector<TensorSpec> table = {
      {"output_ids", "INT32", {-1, -1}, kRequired, kTensor, kEven, kUsed},
      {"sequence_length", "INT32", {-1}, kRequired, kTensor, kEven, kUsed},
      {"cum_log_probs", "FP32", {-1}, kRequired, kTensor, kEven, kUsed},
      {"output_log_probs", "FP32", {-1, -1}, kRequired, kTensor, kEven, kUsed},
      {"top_log_prob_ids", "INT32", {-1, -1, -1}, kRequired, kTensor, kEven, kUsed},
      {"top_log_probs", "FP32", {-1, -1, -1}, kRequired, kTensor, kEven, kUsed},
      {"context_logits", "FP32", {-1, -1}, kRequired, kTensor, kEven, kUsed},
      {"generation_logits", "FP32", {-1, -1, -1}, kRequired, kTensor, kEven, kUsed},
      {"batch_index", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"sequence_index", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"text_context", "UINT8", {-1}, kRequired, kTensor, kEven, kUsed},
      {"previous_ids", "INT32", {-1}, kRequired, kTensor, kEven, kUsed},
      {"response_state", "INT64", {3}, kRequired, kTensor, kEven, kUsed},
      {"heartbeat", "INT64", {1}, kRequired, kTensor, kEven, kUsed},
      {"kv_cache_events", "STRING", {1}, kRequired, kTensor, kEven, kUsed},
      {"group_members", "INT64", {-1}, kRequired, kTensor, kEven, kUsed},
      {"group_begins", "INT32", {-1}, kRequired, kTensor, kEven, kUsed},
      {"group_lengths", "INT32", {-1}, kRequired, kTensor, kEven, kUsed},
      {"context_phase_params", "UINT8", {-1}, kRequired, kTensor, kEven, kRefused},
      {"kv_cache_alloc_new_blocks", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"kv_cache_reused_blocks", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"kv_cache_alloc_total_blocks", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"arrival_time_ns", "INT64", {1}, kRequired, kTensor, kEven, kUsed},
      {"first_scheduled_time_ns", "INT64", {1}, kRequired, kTensor, kEven, kUsed},
      {"first_token_time_ns", "INT64", {1}, kRequired, kTensor, kEven, kUsed},
      {"last_token_time_ns", "INT64", {1}, kRequired, kTensor, kEven, kUsed},
      {"acceptance_rate", "FP32", {1}, kRequired, kTensor, kEven, kUsed},
      {"total_accepted_draft_tokens", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"total_draft_tokens", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"num_input_tokens", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"num_output_tokens", "INT32", {1}, kRequired, kTensor, kEven, kUsed},
      {"finish_reason", "STRING", {1}, kRequired, kTensor, kEven, kUsed},
      {"stop_reason", "STRING", {1}, kRequired, kTensor, kEven, kUsed},
  };
  // clang-format on
  return table;
}

}  // namespace

std::span<const TensorSpec> input_specs() { return inputs(); }
std::span<const TensorSpec> output_specs() { return outputs(); }

const TensorSpec* find_input(std::string_view name) {
  for (const TensorSpec& spec : inputs())
    if (spec.name == name) return &spec;
  return nullptr;
}

}  // namespace inflight::triton
