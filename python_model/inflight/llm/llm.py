"""`LLM`: an engine, a tokenizer, and prompts in whatever form they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from inflight import _core
from inflight.llm.answer import Answer
from inflight.llm.chat import Conversation, chat_prompts, is_one_conversation, params_for_chat
from inflight.llm.completions import Completions
from inflight.llm.generation import GenerationResult
from inflight.llm.outputs import RequestOutput
from inflight.llm.request_options import KvCacheRetentionConfig, RequestOptions, options_for
from inflight.llm.requests import (
    Prompt,
    encode_prompts,
    engine_arguments,
    is_single,
    params_for,
)
from inflight.llm.responses import Responses
from inflight.llm.sampling_params import SamplingParams
from inflight.text.tokenizer import Tokenizer, has_tokenizer


@dataclass(frozen=True)
class KvCacheConfig:
    """Caps of the KV cache; the smallest that is given counts."""

    max_tokens: int | None = None
    max_bytes: int | None = None
    free_gpu_memory_fraction: float = 0.9
    """Of what is free after loading."""
    enable_block_reuse: bool = True
    """Prompts that begin like earlier ones find what was computed for those."""
    host_cache_size: int = 0
    """Bytes of host memory for blocks that the pool has no room for; 0 = none."""
    onboard_blocks: bool = True
    """Blocks found in host memory come back into the pool; else they are computed again."""
    dtype: str = "auto"
    """Of keys and values; "auto" is the engine's."""
    event_buffer_max_size: int = 0
    """Events that `get_kv_cache_events` has not taken yet; older ones are lost. 0 = none are kept."""


@dataclass(frozen=True)
class SchedulerConfig:
    """Who runs when (docs/scheduling.md)."""

    capacity_scheduler_policy: str = "guaranteed_no_evict"
    """Who may hold cache: "guaranteed_no_evict", "max_utilization" (blocks that run out are taken
    from those that came last, who go on later) or "static_batch" (batches, one after another)."""
    max_time_per_output_token_ms: float = 0.0
    """What a token may take while prompts are read beside; 0 = prompts go as fast as they can."""


class LLM:
    """A model ready to generate. Any number of threads and event loops may use it at once.

    Without sampling parameters an answer is greedy and at most 32 tokens long (`SamplingParams`).
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        load_format: str = "auto",
        tokenizer: str | Path | Tokenizer | Any | None = None,
        skip_tokenizer_init: bool = False,
        max_batch_size: int | None = None,
        max_seq_len: int | None = None,
        max_num_tokens: int | None = None,
        kv_cache_config: KvCacheConfig | None = None,
        scheduler_config: SchedulerConfig | None = None,
        max_queue_size: int = 0,
        max_logits_bytes: int = 0,
        enable_chunked_prefill: bool = True,
        enable_cuda_graphs: bool = True,
        num_threads: int = 0,
    ) -> None:
        """Arguments:
        model: an engine directory, or a checkpoint folder, from which an engine is built once
            into a cache folder (`inflight.builder.cache`).
        device: "auto" (a CUDA device if one is usable, else the CPU), "cpu", "cuda", "cuda:1".
        dtype: of an engine to be built; with an engine given it must be the engine's or "auto".
        load_format: "dummy" makes random weights instead of reading files. A folder then needs a
            config.json and nothing else; without a tokenizer prompts are ids.
        tokenizer: a folder, an `inflight.text.tokenizer.Tokenizer` or a fast tokenizer of
            transformers, instead of the model's own.
        skip_tokenizer_init: prompts are ids, and answers have no text.
        max_batch_size, max_seq_len, max_num_tokens: at most the engine's limits; they become the
            limits of an engine to be built.
        scheduler_config: who runs when; prompts are as fast as they can be by default.
        max_queue_size: requests that may wait; more are refused by `generate_async` and held back
            by `generate`. 0 = any number.
        max_logits_bytes: host memory that logits of requests under way may take together; what
            would need more is refused and held back likewise. 0 = a quarter of what is free.
        enable_cuda_graphs: on a GPU, steps that only generate and short prompts run from
            recordings.
        num_threads: of CPU work; 0 = as many as this process may use.
        """
        limits = {
            "max_batch_size": max_batch_size,
            "max_seq_len": max_seq_len,
            "max_num_tokens": max_num_tokens,
        }
        self.engine_dir = _engine_dir(Path(model), dtype, load_format, limits)
        from inflight.builder.engine_file import EngineFile

        engine = EngineFile.read(self.engine_dir)
        if dtype not in ("auto", engine.settings.dtype):
            raise ValueError(
                f"dtype={dtype!r}, but the engine in {self.engine_dir} was built for "
                f"{engine.settings.dtype!r}"
            )
        self.tokenizer: Tokenizer | None = None
        if not skip_tokenizer_init:
            self.tokenizer = _load_tokenizer(tokenizer, self.engine_dir, load_format == "dummy")
        self._eos_token_ids = list(engine.model.eos_token_ids)
        cache = kv_cache_config or KvCacheConfig()
        scheduler = scheduler_config or SchedulerConfig()
        self._engine = _core.Engine(
            str(self.engine_dir),
            device=device,
            load_format=load_format,
            **limits,
            max_queue_size=max_queue_size,
            max_logits_bytes=max_logits_bytes,
            enable_chunked_context=enable_chunked_prefill,
            enable_cuda_graphs=enable_cuda_graphs,
            num_threads=num_threads,
            kv_cache_max_tokens=cache.max_tokens,
            kv_cache_max_bytes=cache.max_bytes,
            kv_cache_free_memory_fraction=cache.free_gpu_memory_fraction,
            kv_cache_host_memory_bytes=cache.host_cache_size,
            kv_cache_onboard_blocks=cache.onboard_blocks,
            kv_cache_dtype=cache.dtype,
            kv_cache_event_buffer_max_size=cache.event_buffer_max_size,
            enable_kv_cache_reuse=cache.enable_block_reuse,
            batch_scheduler_policy=scheduler.capacity_scheduler_policy,
            max_time_per_output_token_ms=scheduler.max_time_per_output_token_ms,
        )
        self._tags = count(1)
        self._responses = Responses(self._engine)

    # --- generating

    def generate(
        self,
        inputs: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        kv_cache_retention_config: (
            KvCacheRetentionConfig | Sequence[KvCacheRetentionConfig | None] | None
        ) = None,
        cache_salt: str | Sequence[str | None] | None = None,
        priority: int | Sequence[int] = 0,
        tenant: str | Sequence[str] = "",
    ) -> RequestOutput | list[RequestOutput]:
        """Answers of all prompts, in their order; one RequestOutput for one prompt. What
        `generate_async` takes by keyword is here one value for all prompts or one for each.

        The first error of any of them is raised and ends the others.
        """
        is_one = is_single(inputs)
        prompts: list[Prompt] = [inputs] if is_one else list(inputs)
        params = params_for(prompts, sampling_params)
        options = options_for(len(prompts), priority, tenant, cache_salt, kv_cache_retention_config)
        encoded = encode_prompts(prompts, params, self.tokenizer)
        results: list[GenerationResult] = []
        completions = Completions(self._responses, len(prompts), use_tqdm and len(prompts) > 1)
        try:
            for index, request in enumerate(zip(encoded, params, options, strict=True)):
                try:
                    results.append(self._submit_when_there_is_room(*request, completions, index))
                except (ValueError, NotImplementedError) as error:
                    if not is_one:
                        error.args = (f"prompt {index} of {len(prompts)}: {error}",)
                    raise
            while completions.num_done < len(results):
                completions.wait_for_one()
            outputs = [result.result() for result in results]
        except BaseException:
            for result in results:
                result.abort()
            raise
        finally:
            completions.close()
        return outputs[0] if is_one else outputs

    def generate_async(
        self,
        inputs: Prompt,
        sampling_params: SamplingParams | None = None,
        streaming: bool = False,
        priority: int = 0,
        tenant: str = "",
        cache_salt: str | None = None,
        kv_cache_retention_config: KvCacheRetentionConfig | None = None,
    ) -> GenerationResult:
        """Start one prompt and return at once. Larger priorities go first; of equals, those of the
        tenant (at most 256 bytes) that has been served least. Only prompts of equal `cache_salt` (at
        most 1,024 bytes) share what the KV cache remembers of them, and `kv_cache_retention_config`
        says how long it is to remember which of them.

        Raises here what is wrong with the request (ValueError) or that the queue is full
        (RuntimeError).
        """
        if not is_single(inputs):
            raise ValueError("generate_async takes one prompt: a text, ids, or a dict of one")
        params = params_for([inputs], sampling_params)
        [(text, ids)] = encode_prompts([inputs], params, self.tokenizer)
        self._responses.start()
        options = RequestOptions(priority, tenant, cache_salt, kv_cache_retention_config)
        return self._submit(text, ids, params[0], options, streaming, None)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> RequestOutput | list[RequestOutput]:
        """Answers to conversations, as `generate` gives them; one for one conversation.

        The prompt is what the tokenizer's chat template (or `chat_template`) makes of the messages;
        see `Tokenizer.apply_chat_template`. Raises ValueError when there is no template.
        """
        is_one = is_one_conversation(messages)
        prompts = chat_prompts(
            self.tokenizer,
            [messages] if is_one else messages,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            template_arguments=chat_template_kwargs,
        )
        params = params_for_chat(sampling_params)
        return self.generate(prompts[0] if is_one else prompts, params, use_tqdm)

    def _submit_when_there_is_room(
        self,
        prompt: tuple[str | None, list[int]],
        params: SamplingParams,
        options: RequestOptions,
        completions: Completions,
        num_submitted: int,
    ) -> GenerationResult:
        while True:
            try:
                return self._submit(*prompt, params, options, False, completions.one_has_ended)
            except _core.ResourceExhaustedError:
                if completions.num_done == num_submitted:  # others fill the queue, not we
                    raise
                completions.wait_for_one()

    def _submit(
        self,
        text: str | None,
        ids: list[int],
        params: SamplingParams,
        options: RequestOptions,
        streaming: bool,
        on_done: Any,
    ) -> GenerationResult:
        tokenizer = self.tokenizer if params.detokenize else None
        tag = next(self._tags)
        arguments = engine_arguments(
            params, len(ids), self._eos_token_ids, self.info.max_seq_len, self.tokenizer
        )
        answer = Answer(params, ids, tokenizer)
        result = GenerationResult(tag, text, ids, answer, streaming, self._engine.cancel, on_done)
        self._responses.running[tag] = result
        try:
            engine_id = self._engine.submit(
                ids,
                tag=tag,
                # Stop strings are ours to find, so we must see the tokens as they come.
                streaming=streaming or bool(params.stop_list),
                **options.engine_arguments(),
                **arguments,
            )
        except BaseException:
            del self._responses.running[tag]
            raise
        result.submitted(engine_id)
        return result

    # --- the engine

    @property
    def info(self) -> _core.EngineInfo:
        """Facts fixed at load: limits, memory, dtype."""
        return self._engine.info

    @property
    def memory_plan(self) -> str:
        """What takes how much memory, as a table."""
        return self._engine.memory_plan

    def get_stats(self) -> _core.EngineStats:
        return self._engine.stats()

    def get_kv_cache_events(self, timeout: float = 2.0) -> list[dict[str, Any]]:
        """What has happened to reusable blocks since the last call, oldest first; for those who route
        requests to where their prefix is cached.

        Waits at most `timeout` seconds for something. Each is `{"event_id": ..., "data": ...}` with
        TensorRT-LLM's fields; the data's `type` is
        "created": `num_blocks_per_cache_level`, of the pool (level 0) and of host memory (1);
        "stored": `parent_hash` (None: the start of prompts) and `blocks`, each the next one's
            parent, with `block_hash`, `tokens` and `cache_level`;
        "removed": `block_hashes`;
        "updated": a block's `cache_level` with `old_value` and `new_value`;
        "lost": `num_events` older ones, dropped because nobody took them.

        Raises ValueError unless `KvCacheConfig.event_buffer_max_size` is given.
        """
        return self._engine.kv_cache_events(timeout)

    def shutdown(self) -> None:
        """Cancel what is running, give back all memory. May be called twice."""
        self._engine.close()
        self._responses.join()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()


def _engine_dir(model: Path, dtype: str, load_format: str, limits: dict[str, int | None]) -> Path:
    if (model / "engine.json").is_file():
        return model
    from inflight.builder.cache import engine_dir_for

    return engine_dir_for(model, dtype=dtype, load_format=load_format, **limits)


def _load_tokenizer(given: Any, engine_dir: Path, is_optional: bool) -> Tokenizer | None:
    if isinstance(given, Tokenizer):
        return given
    if hasattr(given, "backend_tokenizer"):
        return Tokenizer.from_transformers(given)
    if given is None and is_optional and not has_tokenizer(engine_dir):
        return None
    try:
        return Tokenizer.load(engine_dir if given is None else given)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; give tokenizer=… or skip_tokenizer_init=True") from None
