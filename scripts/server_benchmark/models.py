"""Engines for the server benchmark, with a tokenizer that knows every id."""

from __future__ import annotations

import json
from pathlib import Path

from engine_benchmark import shapes
from inflight.builder import build_engine

_SPECIAL = ("<unk>", "<s>", "</s>")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Byte-level: a letter of a prompt is one id, and every other id is a word of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"Ġw{number}" for number in range(vocab_size - len(tokens))]
    raw = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(_SPECIAL))
    raw.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def dummy_engine(folder: Path, model: str, dtype: str, **limits: int) -> Path:
    """Of one of the benchmark's shapes, for dummy weights."""
    config = shapes.MODELS[model]
    checkpoint = folder / model
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(config))
    write_tokenizer(checkpoint, config["vocab_size"])
    return build_engine(checkpoint, folder / "engine", dtype=dtype, load_format="dummy", **limits)


def random_engine(folder: Path, dtype: str, **limits: int) -> Path:
    """Of benchmark_engine.py's Llama of 160 million parameters, with weights in a file."""
    from engine_benchmark.against_transformers import write_checkpoint

    checkpoint = write_checkpoint(folder / "checkpoint", dtype, num_kv_heads=12)
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    write_tokenizer(checkpoint, vocab_size)
    return build_engine(checkpoint, folder / "engine", dtype=dtype, **limits)
