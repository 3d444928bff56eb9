"""Types of the compiled module: the engine section (ops, plans and schemas are used by tests only)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# --- errors: all derive from InflightError -----------------------------------------------------

class InflightError(Exception):
    """Base of every error the C++ core raises."""

    code: str
    """"invalid_argument", "unsupported", "resource_exhausted", "not_found", "cancelled",
    "timed_out", "unavailable", "internal"."""

class InvalidArgumentError(InflightError, ValueError):
    """The caller's input is wrong; the message names value and limit."""

class UnsupportedError(InflightError, NotImplementedError):
    """Legal input that this build or engine cannot serve."""

class ResourceExhaustedError(InflightError, RuntimeError):
    """The queue or a pool is full; trying later may work."""

class NotFoundError(InflightError, LookupError): ...
class CancelledError(InflightError, RuntimeError): ...

class TimedOutError(InflightError, TimeoutError):
    """A deadline has passed."""

class UnavailableError(InflightError, RuntimeError):
    """What would serve it is gone; another engine may."""

class InternalError(InflightError, RuntimeError):
    """Our own fault, or the engine died while it ran the request."""

# --- engine ------------------------------------------------------------------------------------

class EngineInfo:
    """Facts fixed at load; fields as in backend/executor/engine.h."""

    architecture: str
    dtype: str
    device: str
    vocab_size: int
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    max_prompt_len: int
    tokens_per_block: int
    num_blocks: int
    num_host_blocks: int
    block_bytes: int
    kv_cache_dtype: str
    cache_layout: str
    weight_bytes_mapped: int
    weight_bytes_allocated: int
    arena_bytes: int
    workspace_bytes: int
    kv_cache_bytes: int
    kv_cache_host_bytes: int
    reserved_bytes: int
    onboard_bytes_per_second: float
    pinned_bytes: int

class EngineStats:
    """A snapshot taken after the newest step; fields as in backend/executor/engine.h."""

    iteration: int
    timestamp_us: int
    active_requests: int
    running_requests: int
    waiting_requests: int
    scheduled_requests: int
    context_requests: int
    generation_requests: int
    context_tokens: int
    paused_requests: int
    max_blocks: int
    free_blocks: int
    used_blocks: int
    reused_blocks: int
    tokens_per_block: int
    prefix_queried_tokens: int
    prefix_hit_tokens: int
    prefix_host_hit_tokens: int
    stored_blocks: int
    max_host_blocks: int
    cached_host_blocks: int
    offloaded_blocks: int
    onboarded_blocks: int
    copied_to_host_bytes: int
    copied_from_host_bytes: int
    copied_on_device_bytes: int
    finished_requests: int
    cancelled_requests: int
    timed_out_requests: int
    failed_requests: int
    generated_tokens: int
    preemptions: int
    prompt_tokens: int
    host_seconds: float
    device_seconds: float

class TokenLogProbs:
    chosen: float
    top: list[tuple[int, float]]
    """Likeliest first, at most `num_logprobs`."""

class Response:
    """One part of one request's answer. Lists are made when read: read each once."""

    id: int
    """What submit returned."""
    tag: int
    """What the caller gave to submit."""
    token_ids: list[int]
    """New since the request's last part. An end id is never among them."""
    log_probs: list[TokenLogProbs]
    """One a token if asked (num_logprobs >= 0), else empty."""
    cumulative_log_prob: float
    context_logits: np.ndarray | None
    """If asked: float32 [prompt tokens, vocabulary], in the first part. Given away
    when read."""
    generation_logits: np.ndarray | None
    """If asked: float32 [len(token_ids), vocabulary] that they were chosen from. Likewise."""
    is_final: bool
    finish_reason: str
    """"none" (not final), "end_id", "stop_word", "length", "cancelled", "error"."""
    error: InflightError | None
    """With "error" only: an exception object, ready to be raised."""
    arrival_ns: int
    """Times are of time.monotonic_ns(); 0 = has not happened."""
    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int

class ExportedPrefix:
    """The start of a sequence outside of any engine; its parts can be sent and put together again."""

    def __init__(self, layout: str, token_ids: Sequence[int], blocks: np.ndarray) -> None: ...
    layout: str
    """`EngineInfo.cache_layout`: engines with another one cannot read it."""
    token_ids: list[int]
    blocks: np.ndarray
    """uint8, `EngineInfo.block_bytes` for each block of these tokens. A copy, made when read."""

class Engine:
    """An engine directory, loaded and running; raises InflightError with file and key if it cannot.

    Any thread may submit and cancel. The parts of all requests come out of one queue: one Python
    thread calls `next_responses` in a loop and hands them on by `tag`. The C++ threads never take
    the GIL, so nothing here can deadlock with it; `next_responses` waits without it.
    """

    def __init__(
        self,
        engine_dir: str,
        *,
        device: str = "auto",
        max_batch_size: int | None = None,
        max_num_tokens: int | None = None,
        max_seq_len: int | None = None,
        max_queue_size: int = 0,
        enable_chunked_context: bool = True,
        num_threads: int = 0,
        kv_cache_max_tokens: int | None = None,
        kv_cache_max_bytes: int | None = None,
        kv_cache_free_memory_fraction: float = 0.9,
        check_invariants: bool = False,
        load_format: str = "auto",
        enable_cuda_graphs: bool = True,
        kv_cache_host_memory_bytes: int = 0,
        kv_cache_onboard_blocks: bool = True,
        kv_cache_dtype: str = "auto",
        batch_scheduler_policy: str = "guaranteed_no_evict",
        max_time_per_output_token_ms: float = 0.0,
        kv_cache_event_buffer_max_size: int = 0,
        max_logits_bytes: int = 0,
    ) -> None: ...
    def submit(
        self,
        input_ids: Sequence[int] | np.ndarray,
        *,
        tag: int = 0,
        streaming: bool = False,
        priority: int = 0,
        client_id: str = "",
        max_new_tokens: int = 16,
        min_new_tokens: int = 0,
        end_ids: Sequence[int] = (),
        stop_words: Sequence[Sequence[int]] = (),
        bad_words: Sequence[Sequence[int]] = (),
        greedy: bool = False,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int = 0,
        num_logprobs: int = -1,
        top_p_decay: float = 1.0,
        top_p_min: float = 0.0,
        top_p_reset_ids: int = -1,
        prompt_ignore_length: int = 0,
        no_repeat_ngram_size: int = 0,
        embedding_bias: np.ndarray | Sequence[float] | None = None,
        logit_bias: Mapping[int, float] = {},
        normalize_log_probs: bool = True,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        timeout_ms: int = 0,
        tenant: str = "",
        cache_salt: str = "",
        kv_retention: dict[str, Any] | None = None,
    ) -> int:
        """Queue a request; returns its id (for `cancel`).

        `kv_retention`: "ranges", of (begin, end or None, priority, milliseconds or None) each,
        "decode_priority", and "decode_duration_ms" or None (`KvCacheRetentionConfig`).

        Raises InvalidArgumentError or ResourceExhaustedError at once for a bad request. After a
        normal return exactly one final part arrives, always. A part may arrive before this call
        has returned: choose `tag` yourself and register it first, then there is no race.
        A streaming request gets a part a token, or fewer larger ones if the reader lags.
        """

    def cancel(self, request_id: int) -> None:
        """Ask for an early end; the final part then says "cancelled". Unknown ids are ignored."""

    def next_responses(
        self, timeout: float | None = None, spin: float = 0.0
    ) -> list[Response] | None:
        """All parts that are ready, in order for each request; waits for the first of them.

        [] after `timeout` seconds without any (None = no limit), and None once the engine is
        closed and every part has been handed out. Signals are not looked at while it waits: give
        a timeout on the main thread. It waits awake for `spin` seconds before it sleeps.
        """

    def close(self) -> None:
        """Cancel every request, deliver their final parts to the queue, free all memory.

        Wakes waiting readers. May be called twice, from any thread; also done by the destructor
        and at interpreter exit. submit raises afterwards, cancel does nothing, info and stats answer
        with what they last were.
        """

    @property
    def info(self) -> EngineInfo: ...
    @property
    def memory_plan(self) -> str:
        """The table of what takes how much memory, as printed at load."""

    def stats(self) -> EngineStats: ...
    def export_prefix(
        self, token_ids: Sequence[int], *, adapter_id: int = 0, cache_salt: str = ""
    ) -> ExportedPrefix:
        """Keys and values of the leading tokens that the cache holds, at most all but the last.

        Raises RuntimeError if the pool has no block to bring some of them back into.
        """
    def import_prefix(
        self, prefix: ExportedPrefix, *, adapter_id: int = 0, cache_salt: str = ""
    ) -> None:
        """Into the cache, where prompts that begin with these tokens find them until they are evicted.

        Raises ValueError if they are of another layout, RuntimeError if there is no room.
        """
    def kv_cache_events(self, timeout: float = 0.0) -> list[dict[str, Any]]:
        """What has happened to reusable blocks since the last call, oldest first.

        Waits at most `timeout` seconds for something. See `LLM.get_kv_cache_events`.
        """
    @property
    def is_healthy(self) -> bool: ...
    def __enter__(self) -> Engine: ...
    def __exit__(self, *exc: object) -> None: ...

# --- the Triton model's configuration -----------------------------------------------------------

def read_model_config(
    config_json: str, name: str, version: int, version_dir: str, backend: str
) -> dict[str, Any]:
    """As the backend of this name reads it: "engine_dir", maybe a checkpoint's, of which an engine
    with "build_options" is built; "parameters" as (key, value, source), source one of
    "config.pbtxt", "default", "no effect", "unknown"; "warnings". Raises what a load would raise."""

def forecast_kv_cache(
    config_json: str,
    name: str,
    version_dir: str,
    backend: str,
    engine_dir: str,
    taken_bytes: int,
    mapped_bytes: int,
) -> dict[str, Any]:
    """Limits, and the KV pool that this machine would hold now: device, free_bytes, num_blocks,
    bytes_per_block, tokens_per_block, max_seq_len, max_batch_size, max_num_tokens."""
