"""Random tiny Llama checkpoints, engines built of them, and packed steps over a block table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inflight.builder import build_engine
from inflight.builder.assemble import assemble
from inflight.builder.build import compile_checkpoint
from inflight.checkpoint.reader import CheckpointReader
from inflight.config import BuildConfig
from inflight.ir.graph import Graph
from inflight.ir.interpreter import Chunk, pack

TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # the usual 0.02 gives logits so near each other that a wrong model looks right
    "initializer_range": 0.2,
}


def save_checkpoint(
    folder: Path, seed: int, dtype: str, shard: str, family: str, **overrides: Any
) -> Path:
    """A <family>ForCausalLM of random weights, biases and norms, as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**{**TINY, **overrides})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(seed=0, dtype="float32", shard="5GB", family="Llama", **config overrides)
    -> folder."""

    def make(
        seed: int = 0,
        dtype: str = "float32",
        shard: str = "5GB",
        family: str = "Llama",
        **overrides: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        return save_checkpoint(folder, seed, dtype, shard, family, **overrides)

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(tiny_checkpoint, tmp_path_factory.mktemp("engine") / "tiny")


@dataclass(frozen=True)
class CompiledModel:
    graph: Graph
    weights: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def compile_model() -> Callable[..., CompiledModel]:
    """compile_model(checkpoint, **build settings) -> optimised graph and assembled weights."""

    def make(checkpoint: Path, **settings: Any) -> CompiledModel:
        reader = CheckpointReader.open(checkpoint)
        graph = compile_checkpoint(reader, BuildConfig(**settings)).graph
        return CompiledModel(graph, {n: assemble(reader, w) for n, w in graph.weights.items()})

    return make


@dataclass(frozen=True)
class PackedStep:
    """Step inputs, and of each row the sequence and the position of its last token."""

    inputs: dict[str, np.ndarray]
    last: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Workload:
    """Sequences of tokens, run by steps that mix chunks of prompts with single tokens."""

    sequences: tuple[tuple[int, ...], ...]
    prompt_lengths: tuple[int, ...]
    steps: tuple[PackedStep, ...]
    num_blocks: int


@pytest.fixture(scope="session")
def make_workload() -> Callable[..., Workload]:
    """make_workload(seed, vocab_size, tokens_per_block, prompt_lengths, ...) -> Workload."""

    def make(
        seed: int,
        vocab_size: int = TINY["vocab_size"],
        tokens_per_block: int = 4,
        prompt_lengths: tuple[int, ...] = (9, 1, 17, 4),
        num_generated: int = 4,
        largest_chunk: int = 6,
        num_groups: int = 1,
    ) -> Workload:
        random = np.random.default_rng(seed)
        lengths = [prompt + num_generated for prompt in prompt_lengths]
        sequences = [tuple(map(int, random.integers(0, vocab_size, n))) for n in lengths]
        counts = [-(-n // tokens_per_block) for n in lengths]
        num_blocks = sum(counts) + 3
        # a sequence's blocks lie anywhere in the pool, in any order
        tables = [
            np.split(random.permutation(num_blocks)[: sum(counts)], np.cumsum(counts)[:-1])
            for _ in range(num_groups)
        ]
        done = [0] * len(sequences)
        steps = []
        while any(d < n for d, n in zip(done, lengths, strict=True)):
            chunks, last = [], []
            for i, length in enumerate(lengths):
                if done[i] == length or random.random() < 0.2:  # not every one in every step
                    continue
                size = min(int(random.integers(1, largest_chunk + 1)), prompt_lengths[i] - done[i])
                end = done[i] + max(size, 1)
                chunks.append(
                    Chunk(
                        sequences[i][done[i] : end],
                        done[i],
                        tuple(map(int, tables[0][i])),
                        prompt_lengths[i],
                        tuple(tuple(map(int, table[i])) for table in tables[1:]),
                    )
                )
                done[i] = end
                last.append((i, end - 1))
            if chunks:
                steps.append(PackedStep(pack(chunks, tokens_per_block), tuple(last)))
        return Workload(tuple(sequences), tuple(prompt_lengths), tuple(steps), num_blocks)

    return make
