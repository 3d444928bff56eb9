"""One tritonserver a device for all tests of this folder, with tiny random engines in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from frail_server import FrailServer
from inflight import _core
from inflight.builder import build_engine
from inflight.cli.repository import ServingOptions, repository_settings
from inflight.serving.pbtxt import ModelConfig, render
from inflight.serving.repository import write_repository
from inflight.serving.schema import TENSORRT_LLM
from inflight.text.tokenizer import Tokenizer
from triton_server import MAX_SEQ_LEN, TIGHT_BLOCKS, Server, Setup, running

KV_TOKENS = 8192


def save_tokenizer(folder: Path) -> int:
    """A byte-level one: any ids make text, most of it broken characters. Answers its size."""
    from tokenizers import Tokenizer as Raw
    from tokenizers import decoders, models, pre_tokenizers

    tokens = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Raw(models.BPE({token: id for id, token in enumerate(tokens)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(tokens[:3])
    folder.mkdir(parents=True)
    raw.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}'
    )
    return len(tokens)


def save_checkpoint(folder: Path, seed: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab_size = save_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,  # a step takes long enough to be cancelled under way
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_SEQ_LEN,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def add_llm(repository: Path, name: str, config: ModelConfig, versions: int = 1) -> None:
    folder = repository / name
    for version in range(1, versions + 1):
        (folder / str(version)).mkdir(parents=True)
    (folder / "config.pbtxt").write_text(render(replace(TENSORRT_LLM, name=name), config))


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def setup(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setup]:
    """tensorrt_llm and its ensemble; beside them `plain` (not decoupled) and `plain_ensemble`,
    `second` (another engine), `short_queue`, `static` (of the former type V1), `tight` (few blocks,
    which it preempts for, with a host tier and events), and `versions` (two of them, each with an
    engine of its own)."""
    device = request.param
    if device not in _core.op_devices():
        pytest.skip(f"no {device} on this machine or in this build")
    scratch = tmp_path_factory.mktemp("server")
    checkpoint = save_checkpoint(scratch / "checkpoint", seed=0)
    other = save_checkpoint(scratch / "other", seed=1)
    engine = build_engine(checkpoint, scratch / "engine", max_batch_size=16, max_num_tokens=256)
    second = build_engine(other, scratch / "second", max_batch_size=16, max_num_tokens=256)

    repository = scratch / "repository"
    settings = repository_settings(
        engine, ServingOptions(device=device, kv_cache_max_tokens=KV_TOKENS, num_threads=1)
    )
    write_repository(repository, settings)
    parameters = {**settings.llm_parameters, "gpt_model_path": str(engine)}
    base = ModelConfig(backend="inflight", max_batch_size=16, parameters=parameters)
    add_llm(repository, "plain", base)
    steps = (repository / "ensemble" / "config.pbtxt").read_text()
    (repository / "plain_ensemble" / "1").mkdir(parents=True)
    (repository / "plain_ensemble" / "config.pbtxt").write_text(
        steps.replace('name: "ensemble"', 'name: "plain_ensemble"').replace(
            'model_name: "tensorrt_llm"', 'model_name: "plain"'
        )
    )
    at_second = {**parameters, "gpt_model_path": str(second)}
    add_llm(repository, "second", replace(base, decoupled=True, parameters=at_second))
    few = {**parameters, "max_batch_size": "1", "max_queue_size": "2"}
    add_llm(repository, "short_queue", replace(base, decoupled=True, parameters=few))
    static = {**parameters, "gpt_model_type": "V1"}
    add_llm(repository, "static", replace(base, parameters=static))
    little = {
        **parameters,
        "batch_scheduler_policy": "max_utilization",
        "max_tokens_in_paged_kv_cache": str(TIGHT_BLOCKS * 32),
        "kv_cache_host_memory_bytes": str(1 << 20),
        "kv_cache_event_buffer_max_size": "1000",
    }
    add_llm(repository, "tight", replace(base, decoupled=True, parameters=little))
    relative = {**parameters, "gpt_model_path": "engine"}
    both = replace(base, decoupled=True, parameters=relative, versions=(1, 2))
    add_llm(repository, "versions", both, versions=2)
    (repository / "versions" / "1" / "engine").symlink_to(engine)
    (repository / "versions" / "2" / "engine").symlink_to(second)

    # What the core still counts after an ensemble that failed (docs/server_faults.md) is waited for at the
    # end in vain: not long.
    with running(repository, scratch, "--load-model=*", exit_seconds=2) as server:
        yield Setup(server, device, repository, checkpoint, Tokenizer.load(checkpoint))


@pytest.fixture
def server(setup: Setup) -> Iterator[Server]:
    """Idle before and after each test: no test leaves a block behind."""
    setup.server.wait_until_idle()
    yield setup.server
    setup.server.wait_until_idle()


@pytest.fixture(scope="session")
def frail_server(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrailServer]:
    with FrailServer(setup.repository, tmp_path_factory) as frail:
        yield frail


@pytest.fixture
def on_frail_server(frail_server: FrailServer) -> Callable[..., None]:
    """on_frail_server(scenario, servers=1): runs it on a server beside the others' that has the
    same models, idle before and after."""
    return frail_server.run


@pytest.fixture(scope="session")
def tokenizer(setup: Setup) -> Tokenizer:
    return setup.tokenizer


@pytest.fixture(scope="session")
def greedy(setup: Setup) -> Callable[[list[int], int], list[int]]:
    """Greedy ids by transformers."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(setup.checkpoint, dtype="float32").eval()

    def generate(prompt: list[int], length: int) -> list[int]:
        torch.set_num_threads(1)  # tiny models are many times faster so
        with torch.no_grad():
            ids = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return ids[0, len(prompt) :].tolist()

    return generate
