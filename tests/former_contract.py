"""The tensors of the former backend's `tensorrt_llm`, written from the interface that clients were made
for: name, type, dims, flags (O optional, R reshaped to no dimension, G ragged)."""

INPUTS = """
input_ids INT32 -1 OG
encoder_input_features FP16 -1,-1 OG
encoder_output_lengths INT32 1 OR
input_lengths INT32 1 R
request_output_len INT32 1 R
num_return_sequences INT32 1 OR
draft_input_ids INT32 -1 OG
decoder_input_ids INT32 -1 OG
decoder_input_lengths INT32 1 OR
draft_logits FP32 -1,-1 OG
draft_acceptance_threshold FP32 1 OR
end_id INT32 1 OR
pad_id INT32 1 OR
stop_words_list INT32 2,-1 OG
bad_words_list INT32 2,-1 OG
embedding_bias FP32 -1 OG
beam_width INT32 1 OR
temperature FP32 1 OR
runtime_top_k INT32 1 OR
runtime_top_p FP32 1 OR
runtime_top_p_min FP32 1 OR
runtime_top_p_decay FP32 1 OR
runtime_top_p_reset_ids INT32 1 OR
len_penalty FP32 1 OR
early_stopping BOOL 1 OR
repetition_penalty FP32 1 OR
min_length INT32 1 OR
beam_search_diversity_rate FP32 1 OR
presence_penalty FP32 1 OR
frequency_penalty FP32 1 OR
random_seed UINT64 1 OR
return_log_probs BOOL 1 OR
return_context_logits BOOL 1 OR
return_generation_logits BOOL 1 OR
return_perf_metrics BOOL 1 OR
exclude_input_in_output BOOL 1 OR
stop BOOL 1 OR
streaming BOOL 1 OR
prompt_embedding_table FP16 -1,-1 OG
prompt_table_extra_ids UINT64 -1 OG
prompt_vocab_size INT32 1 OR
cross_attention_mask BOOL -1,-1 OG
skip_cross_attn_blocks BOOL 1 OG
mrope_rotary_cos_sin FP32 -1 O
mrope_position_deltas INT64 1 O
lora_task_id UINT64 1 OR
lora_weights FP16 -1,-1 OG
lora_config INT32 -1,3 OG
context_phase_params UINT8 -1 OG
retention_token_range_starts INT32 -1 OG
retention_token_range_ends INT32 -1 OG
retention_token_range_priorities INT32 -1 OG
retention_token_range_durations_ms INT32 -1 OG
retention_decode_priority INT32 1 OG
retention_decode_duration_ms INT32 1 OG
guided_decoding_guide_type STRING 1 OG
guided_decoding_guide STRING 1 OG
lookahead_window_size INT32 1 OG
lookahead_ngram_size INT32 1 OG
lookahead_verification_set_size INT32 1 OG
"""
OUTPUTS = """
output_ids INT32 -1,-1
sequence_length INT32 -1
cum_log_probs FP32 -1
output_log_probs FP32 -1,-1
context_logits FP32 -1,-1
generation_logits FP32 -1,-1,-1
batch_index INT32 1
sequence_index INT32 1
context_phase_params UINT8 -1
kv_cache_alloc_new_blocks INT32 1
kv_cache_reused_blocks INT32 1
kv_cache_alloc_total_blocks INT32 1
arrival_time_ns INT64 1
first_scheduled_time_ns INT64 1
first_token_time_ns INT64 1
last_token_time_ns INT64 1
acceptance_rate FP32 1
total_accepted_draft_tokens INT32 1
total_draft_tokens INT32 1
"""
# Of releases after 0.19.
LATER_INPUTS = """
min_tokens INT32 1 OR
seed UINT64 1 OR
prompt_ignore_length INT32 1 OR
return_num_input_tokens BOOL 1 OR
return_num_output_tokens BOOL 1 OR
"""
LATER_OUTPUTS = """
num_input_tokens INT32 1
num_output_tokens INT32 1
"""


def rows(*tables: str) -> dict[str, list[str]]:
    """Type, dims and, where there are any, flags by name."""
    lines = [line.split() for table in tables for line in table.strip().splitlines()]
    return {name: rest for name, *rest in lines}
