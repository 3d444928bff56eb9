"""The one table of serving tensors: every input and output of the repository's models.

The config.pbtxt files are rendered from it (pbtxt.py) and the C++ table of the `tensorrt_llm`
model is held equal to it by a test. Dims leave the batch dimension out.
"""

from inflight.serving.tensors import Link, Model, Step, Support, Tensor


def _scalar(name: str, dtype: str, **options) -> Tensor:
    return Tensor(name, dtype, (1,), scalar=True, **options)


def _ragged(name: str, dtype: str, *dims: int, **options) -> Tensor:
    return Tensor(name, dtype, dims, ragged=True, **options)


def _refused(name: str, dtype: str, *dims: int, default: float | None = None) -> Tensor:
    return _ragged(name, dtype, *dims, support=Support.REFUSED, default=default)


def _refused_scalar(name: str, dtype: str, default: float | None = None) -> Tensor:
    return _scalar(name, dtype, support=Support.REFUSED, default=default)


def _output(name: str, dtype: str, *dims: int, support: Support = Support.USED) -> Tensor:
    return Tensor(name, dtype, dims, optional=False, support=support)


_LATER = Support.REFUSED
_IGNORED = Support.IGNORED

TENSORRT_LLM = Model(
    "tensorrt_llm",
    inputs=(
        _ragged("input_ids", "INT32", -1),
        _scalar("input_lengths", "INT32", optional=False),
        _scalar("request_output_len", "INT32", optional=False),
        _scalar("end_id", "INT32"),
        _ragged("end_ids", "INT32", -1),  # ours: ends beside end_id; -1 is none
        _scalar("pad_id", "INT32", support=_IGNORED),
        _ragged("stop_words_list", "INT32", 2, -1),
        _ragged("bad_words_list", "INT32", 2, -1),
        _scalar("temperature", "FP32"),
        _scalar("runtime_top_k", "INT32"),
        _scalar("runtime_top_p", "FP32"),
        _scalar("min_p", "FP32"),
        _scalar("runtime_top_p_min", "FP32"),
        _scalar("runtime_top_p_decay", "FP32"),
        _scalar("runtime_top_p_reset_ids", "INT32"),
        _scalar("repetition_penalty", "FP32"),
        _scalar("presence_penalty", "FP32"),
        _scalar("frequency_penalty", "FP32"),
        _scalar("prompt_ignore_length", "INT32"),
        _scalar("no_repeat_ngram_size", "INT32"),
        _ragged("embedding_bias", "FP32", -1),
        _scalar("min_tokens", "INT32"),
        _scalar("min_length", "INT32"),
        _scalar("seed", "UINT64"),
        _scalar("random_seed", "UINT64"),
        _scalar("return_log_probs", "BOOL"),
        _scalar("num_top_log_probs", "INT32"),  # ours: of the likeliest ids beside each one
        _scalar("return_context_logits", "BOOL"),
        _scalar("return_generation_logits", "BOOL"),
        _scalar("return_perf_metrics", "BOOL"),
        _scalar("return_kv_cache_reuse_stats", "BOOL"),  # the same, an old name
        _scalar("return_num_input_tokens", "BOOL"),
        _scalar("return_num_output_tokens", "BOOL"),
        _scalar("return_finish_reason", "BOOL"),
        _scalar("return_stop_reason", "BOOL"),
        _scalar("exclude_input_in_output", "BOOL"),
        _scalar("num_return_sequences", "INT32"),
        _scalar("streaming", "BOOL"),
        _scalar("stop", "BOOL"),
        _scalar("ignore_eos", "BOOL"),
        _scalar("priority", "INT32"),  # smaller first, 0 if not given
        _scalar("timeout_ms", "INT32"),  # after which the request ends with what it has
        _scalar("cache_salt", "STRING"),  # ours: only requests of equal salt share blocks
        # How long to keep the blocks of parts of the prompt, and of what is generated.
        _ragged("retention_token_range_starts", "INT32", -1),
        _ragged("retention_token_range_ends", "INT32", -1),
        _ragged("retention_token_range_priorities", "INT32", -1),
        _ragged("retention_token_range_durations_ms", "INT32", -1),
        _ragged("retention_decode_priority", "INT32", 1),
        _ragged("retention_decode_duration_ms", "INT32", 1),
        # Ours: what the ensemble needs to make text, see docs/serving.md.
        _ragged("text_context", "UINT8", -1),
        _scalar("engine_request_id", "UINT64"),
        # Ours: the request asks for what has happened in the KV cache after this event; -1: for all
        # that is known. Its other tensors are dummies, as those of a stop request.
        _scalar("kv_cache_events_after", "INT64"),
        # Ours: [group, member]. Streams of one client that name one group have what is new of them
        # sent together, in one response a step; docs/serving.md.
        _ragged("response_group", "INT64", 2),
        # Concerns encoder-decoder models, or beams, of which there is one.
        _ragged("decoder_input_ids", "INT32", -1, support=_IGNORED),
        _scalar("decoder_input_lengths", "INT32", support=_IGNORED),
        _scalar("len_penalty", "FP32", support=_IGNORED),
        _scalar("early_stopping", "BOOL", support=_IGNORED),
        _scalar("beam_search_diversity_rate", "FP32", support=_IGNORED),
        _refused_scalar("beam_width", "INT32", 1),
        _refused("encoder_input_features", "FP16", -1, -1),
        _refused_scalar("encoder_output_lengths", "INT32", 0),
        _refused("draft_input_ids", "INT32", -1),
        _refused("draft_logits", "FP32", -1, -1),
        _refused_scalar("draft_acceptance_threshold", "FP32", 0),
        _refused("prompt_embedding_table", "FP16", -1, -1),
        _refused("prompt_table_extra_ids", "UINT64", -1, default=0),
        _refused_scalar("prompt_vocab_size", "INT32", 0),
        _refused("cross_attention_mask", "BOOL", -1, -1),
        _refused("skip_cross_attn_blocks", "BOOL", 1, default=0),
        Tensor("mrope_rotary_cos_sin", "FP32", (-1,), support=_LATER),
        Tensor("mrope_position_deltas", "INT64", (1,), support=_LATER, default=0),
        _refused_scalar("lora_task_id", "UINT64", 0),
        _refused("lora_weights", "FP16", -1, -1),
        _refused("lora_config", "INT32", -1, 3),
        _refused("context_phase_params", "UINT8", -1),
        _refused("guided_decoding_guide_type", "STRING", 1),
        _refused("guided_decoding_guide", "STRING", 1),
        _refused("lookahead_window_size", "INT32", 1, default=0),
        _refused("lookahead_ngram_size", "INT32", 1, default=0),
        _refused("lookahead_verification_set_size", "INT32", 1, default=0),
    ),
    outputs=(
        _output("output_ids", "INT32", -1, -1),
        _output("sequence_length", "INT32", -1),
        _output("cum_log_probs", "FP32", -1),
        _output("output_log_probs", "FP32", -1, -1),
        # Ours: [beams, new tokens, num_top_log_probs], likeliest first; id -1 where there are fewer.
        _output("top_log_prob_ids", "INT32", -1, -1, -1),
        _output("top_log_probs", "FP32", -1, -1, -1),
        _output("context_logits", "FP32", -1, -1),  # or FP16, as the configuration declares it
        _output("generation_logits", "FP32", -1, -1, -1),
        _output("batch_index", "INT32", 1),
        _output("sequence_index", "INT32", 1),
        # Ours, present only if the request gave a text_context.
        _output("text_context", "UINT8", -1),  # the input's bytes again
        _output("previous_ids", "INT32", -1),  # generated and sent before this response
        # [engine request id, 1 in the last response, generated ids in this output_ids]
        _output("response_state", "INT64", 3),
        # Alone in its response, for an ensemble that gave a text context and asks for it: the
        # engine's request id, while there is nothing to say.
        _output("heartbeat", "INT64", 1),
        _output("kv_cache_events", "STRING", 1),  # JSON, docs/kv_cache.md
        # Ours, of a group's response: whose ids output_ids holds, one after another, how many ids
        # of each came before (a member's final response tells that, too) and how many it has here.
        _output("group_members", "INT64", -1),
        _output("group_begins", "INT32", -1),
        _output("group_lengths", "INT32", -1),
        _output("context_phase_params", "UINT8", -1, support=_LATER),
        _output("kv_cache_alloc_new_blocks", "INT32", 1),
        _output("kv_cache_reused_blocks", "INT32", 1),
        _output("kv_cache_alloc_total_blocks", "INT32", 1),
        _output("arrival_time_ns", "INT64", 1),
        _output("first_scheduled_time_ns", "INT64", 1),
        _output("first_token_time_ns", "INT64", 1),
        _output("last_token_time_ns", "INT64", 1),
        _output("acceptance_rate", "FP32", 1),
        _output("total_accepted_draft_tokens", "INT32", 1),
        _output("total_draft_tokens", "INT32", 1),
        _output("num_input_tokens", "INT32", 1),
        _output("num_output_tokens", "INT32", 1),
        # Empty until the last response of a sequence: "stop", "length", "deadline" or "cancelled";
        # and the end id, or the ids of the stop word between blanks, that ended it.
        _output("finish_reason", "STRING", 1),
        _output("stop_reason", "STRING", 1),
    ),
)

PREPROCESSING = Model(
    "preprocessing",
    inputs=(
        Tensor("QUERY", "STRING", (1,), optional=False),
        Tensor("REQUEST_OUTPUT_LEN", "INT32", (1,), optional=False),
        Tensor("STOP_WORDS_DICT", "STRING", (-1,)),
        Tensor("BAD_WORDS_DICT", "STRING", (-1,)),
        Tensor("END_ID", "INT32", (1,)),
        Tensor("PAD_ID", "INT32", (1,)),
        Tensor("DECODER_QUERY", "STRING", (1,), support=_IGNORED),
        Tensor("EMBEDDING_BIAS_WORDS", "STRING", (-1,)),
        Tensor("EMBEDDING_BIAS_WEIGHTS", "FP32", (-1,)),
        Tensor("INCLUDE_STOP_STR_IN_OUTPUT", "BOOL", (1,)),  # ours; default: postprocessing's
        Tensor("PROMPT_TABLE_EXTRA_ID", "UINT64", (1,), support=_LATER, default=0),
        Tensor("IMAGE_BYTES", "UINT8", (-1, -1, -1, -1), support=_LATER),
        Tensor("IMAGE_URL", "STRING", (1,), support=_LATER),
        Tensor("IMAGES", "STRING", (-1,), support=_LATER),
        Tensor("VIDEO_BYTES", "UINT8", (-1, -1, -1, -1), support=_LATER),
    ),
    outputs=(
        _output("INPUT_ID", "INT32", -1),
        _output("REQUEST_INPUT_LEN", "INT32", 1),
        _output("DECODER_INPUT_ID", "INT32", -1),
        _output("REQUEST_DECODER_INPUT_LEN", "INT32", 1),
        _output("REQUEST_OUTPUT_LEN", "INT32", -1),
        _output("STOP_WORDS_IDS", "INT32", 2, -1),
        _output("BAD_WORDS_IDS", "INT32", 2, -1),
        _output("EMBEDDING_BIAS", "FP32", -1),
        _output("OUT_END_ID", "INT32", 1),
        _output("OUT_PAD_ID", "INT32", 1),
        _output("TEXT_CONTEXT", "UINT8", -1),  # ours
        _output("OUT_PROMPT_TABLE_EXTRA_IDS", "UINT64", -1, support=_LATER),
        _output("PIXEL_VALUES", "FP16", -1, -1, -1, -1, support=_LATER),
        _output("ASPECT_RATIO_IDS", "INT64", -1, support=_LATER),
        _output("ASPECT_RATIO_MASK", "INT64", -1, -1, support=_LATER),
        _output("CROSS_ATTENTION_MASK", "INT64", -1, -1, -1, support=_LATER),
        _output("IMAGE_SIZES", "INT64", -1, 2, support=_LATER),
        _output("IS_VIDEO_INPUT", "BOOL", 1, support=_LATER),
        _output("ATTENTION_MASK", "INT64", -1, support=_LATER),
        _output("IMAGE_GRID_THW", "INT64", 3, support=_LATER),
        _output("VISION_INPUT_ID", "INT32", -1, support=_LATER),
    ),
)

POSTPROCESSING = Model(
    "postprocessing",
    inputs=(
        Tensor("TOKENS_BATCH", "INT32", (-1, -1), optional=False),
        Tensor("SEQUENCE_LENGTH", "INT32", (-1,), optional=False),
        # Ours; without them the chunk is decoded on its own.
        Tensor("TEXT_CONTEXT", "UINT8", (-1,)),
        Tensor("PREVIOUS_IDS", "INT32", (-1,)),
        Tensor("RESPONSE_STATE", "INT64", (3,)),
        # The engine's, which does not know of stop words that show in the text alone.
        Tensor("FINISH_REASON", "STRING", (1,)),
        Tensor("STOP_REASON", "STRING", (1,)),
    ),
    outputs=(
        _output("OUTPUT", "STRING", -1),
        _output("FINISH_REASON_OUT", "STRING", 1),  # ours
        _output("STOP_REASON_OUT", "STRING", 1),  # ours; the stop word, of what a stop word ended
    ),
)


# Ensemble input -> where it goes. Names that are equal on both sides stand alone.
_TO_PREPROCESSING = {
    "QUERY": "text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "DECODER_QUERY": "decoder_text_input",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "INCLUDE_STOP_STR_IN_OUTPUT": "include_stop_str_in_output",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
}
_FROM_PREPROCESSING = {
    "INPUT_ID": ("_INPUT_ID", "input_ids"),
    "REQUEST_INPUT_LEN": ("_REQUEST_INPUT_LEN", "input_lengths"),
    "DECODER_INPUT_ID": ("_DECODER_INPUT_ID", "decoder_input_ids"),
    "REQUEST_DECODER_INPUT_LEN": ("_REQUEST_DECODER_INPUT_LEN", "decoder_input_lengths"),
    "REQUEST_OUTPUT_LEN": ("_REQUEST_OUTPUT_LEN", "request_output_len"),
    "STOP_WORDS_IDS": ("_STOP_WORDS_IDS", "stop_words_list"),
    "BAD_WORDS_IDS": ("_BAD_WORDS_IDS", "bad_words_list"),
    "EMBEDDING_BIAS": ("_EMBEDDING_BIAS", "embedding_bias"),
    "OUT_END_ID": ("_PREPROCESSOR_END_ID", "end_id"),
    "OUT_PAD_ID": ("_PREPROCESSOR_PAD_ID", "pad_id"),
    "OUT_PROMPT_TABLE_EXTRA_IDS": ("_OUT_PROMPT_TABLE_EXTRA_IDS", "prompt_table_extra_ids"),
    "TEXT_CONTEXT": ("_TEXT_CONTEXT_IN", "text_context"),
}
_TO_LLM = {
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "runtime_top_p_min": "top_p_min",
    "runtime_top_p_decay": "top_p_decay",
    "runtime_top_p_reset_ids": "top_p_reset_ids",
}
_SAME_IN_LLM = (
    "temperature",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "prompt_ignore_length",
    "no_repeat_ngram_size",
    "end_ids",
    "min_tokens",
    "min_length",
    "ignore_eos",
    "priority",
    "timeout_ms",
    "cache_salt",
    "seed",
    "random_seed",
    "return_log_probs",
    "num_top_log_probs",
    "exclude_input_in_output",
    "num_return_sequences",
    "beam_width",
    "early_stopping",
    "return_context_logits",
    "return_generation_logits",
    "return_perf_metrics",
    "return_kv_cache_reuse_stats",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_finish_reason",
    "return_stop_reason",
    "prompt_embedding_table",
    "prompt_vocab_size",
    "lora_task_id",
    "lora_weights",
    "lora_config",
    "guided_decoding_guide_type",
    "guided_decoding_guide",
    "beam_search_diversity_rate",
    "retention_token_range_starts",
    "retention_token_range_ends",
    "retention_token_range_priorities",
    "retention_token_range_durations_ms",
    "retention_decode_priority",
    "retention_decode_duration_ms",
)
_TO_POSTPROCESSING = {
    "output_ids": ("_TOKENS_BATCH", "TOKENS_BATCH"),
    "sequence_length": ("_SEQUENCE_LENGTH", "SEQUENCE_LENGTH"),
    "text_context": ("_TEXT_CONTEXT_OUT", "TEXT_CONTEXT"),
    "previous_ids": ("_PREVIOUS_IDS", "PREVIOUS_IDS"),
    "response_state": ("_RESPONSE_STATE", "RESPONSE_STATE"),
    "finish_reason": ("_FINISH_REASON", "FINISH_REASON"),
    "stop_reason": ("_STOP_REASON", "STOP_REASON"),
}
_FROM_POSTPROCESSING = {
    "OUTPUT": "text_output",
    "FINISH_REASON_OUT": "finish_reason",
    "STOP_REASON_OUT": "stop_reason",
}


def _named(tensors: tuple[Tensor, ...], name: str) -> Tensor:
    return next(tensor for tensor in tensors if tensor.name == name)


def _renamed(tensor: Tensor, name: str) -> Tensor:
    """The ensemble's side of a tensor: reshapes are the composing model's business."""
    return Tensor(
        name,
        tensor.dtype,
        tensor.dims,
        optional=tensor.optional,
        ragged=name in ("lora_weights", "lora_config") or name.startswith("guided_decoding_"),
        support=tensor.support,
        default=tensor.default,
    )


def _ensemble_inputs() -> tuple[Tensor, ...]:
    inputs = [
        _renamed(_named(PREPROCESSING.inputs, at), name) for at, name in _TO_PREPROCESSING.items()
    ]
    inputs += [_renamed(_named(TENSORRT_LLM.inputs, at), name) for at, name in _TO_LLM.items()]
    inputs += [_renamed(_named(TENSORRT_LLM.inputs, name), name) for name in _SAME_IN_LLM]
    return tuple(inputs)


_OF_THE_MODEL_ALONE = {
    *("context_phase_params", "heartbeat", "kv_cache_events"),
    *("group_members", "group_begins", "group_lengths"),
}
_LLM_OUTPUTS_OF_ENSEMBLE = tuple(
    tensor
    for tensor in TENSORRT_LLM.outputs
    if tensor.name not in {*_TO_POSTPROCESSING, *_OF_THE_MODEL_ALONE}
)

ENSEMBLE = Model(
    "ensemble",
    inputs=_ensemble_inputs(),
    outputs=(
        *(
            _renamed(_named(POSTPROCESSING.outputs, at), name)
            for at, name in _FROM_POSTPROCESSING.items()
        ),
        *_LLM_OUTPUTS_OF_ENSEMBLE,
    ),
)

ENSEMBLE_STEPS = (
    Step(
        PREPROCESSING,
        inputs=tuple(Link(at, name) for at, name in _TO_PREPROCESSING.items()),
        outputs=tuple(Link(at, name) for at, (name, _) in _FROM_PREPROCESSING.items()),
    ),
    Step(
        TENSORRT_LLM,
        inputs=(
            *(Link(at, name) for name, at in _FROM_PREPROCESSING.values()),
            *(Link(at, name) for at, name in _TO_LLM.items()),
            *(Link(name, name) for name in _SAME_IN_LLM),
        ),
        outputs=(
            *(Link(at, name) for at, (name, _) in _TO_POSTPROCESSING.items()),
            *(Link(tensor.name, tensor.name) for tensor in _LLM_OUTPUTS_OF_ENSEMBLE),
        ),
    ),
    Step(
        POSTPROCESSING,
        inputs=tuple(Link(at, name) for name, at in _TO_POSTPROCESSING.values()),
        outputs=tuple(Link(at, name) for at, name in _FROM_POSTPROCESSING.items()),
    ),
)

# Behind tensorrt_llm in the ensemble: hands on what the engine says, and looks whether the client is
# still there (docs/serving.md).
RELAY = Model(
    "relay",
    inputs=(
        *(
            Tensor(link.model_tensor, tensor.dtype, tensor.dims)
            for link in ENSEMBLE_STEPS[1].outputs
            for tensor in (_named(TENSORRT_LLM.outputs, link.model_tensor),)
        ),
        Tensor("heartbeat", "INT64", (1,)),
    ),
    outputs=tuple(
        _named(TENSORRT_LLM.outputs, link.model_tensor) for link in ENSEMBLE_STEPS[1].outputs
    ),
)


def _relayed(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """With the relay behind tensorrt_llm."""
    preprocessing, generation, postprocessing = steps
    said = tuple(
        Link(name, f"_SAID_{name.upper()}")
        for name in (*(link.model_tensor for link in generation.outputs), "heartbeat")
    )
    return (
        preprocessing,
        Step(generation.model, generation.inputs, said),
        Step(RELAY, said, generation.outputs),
        postprocessing,
    )


RELAYED_ENSEMBLE_STEPS = _relayed(ENSEMBLE_STEPS)

# The ensemble's tensors and, refused, what its former model could beside them.
BLS = Model(
    "tensorrt_llm_bls",
    inputs=(
        *ENSEMBLE.inputs,
        Tensor("image_input", "FP16", (-1, 3, -1, -1), support=_LATER),
        Tensor("image_bytes_input", "UINT8", (-1, -1, -1, -1), support=_LATER),
        Tensor("image_url_input", "STRING", (1,), support=_LATER),
        Tensor("video_bytes_input", "UINT8", (-1, -1, -1, -1), support=_LATER),
        Tensor("num_draft_tokens", "INT32", (1,), support=_LATER, default=0),
        Tensor("use_draft_logits", "BOOL", (1,), support=_LATER, default=0),
    ),
    outputs=ENSEMBLE.outputs,
)

MODELS = (PREPROCESSING, TENSORRT_LLM, RELAY, POSTPROCESSING, ENSEMBLE, BLS)
