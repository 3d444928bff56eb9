"""What the loaded backend takes beside weights, KV pool and arena."""

from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc
from inflight.builder import build_engine
from inflight.builder.engine_file import EngineFile
from inflight.builder.memory import engine_memory
from inflight.cli.repository import ServingOptions, repository_settings
from inflight.serving.repository import write_repository
from triton_server import Stream, llm_request, running

MAX_BATCH = 16
KV_TOKENS = MAX_BATCH * 256
ALLOWED = 150 << 20


def save_checkpoint(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_little_beside_weights_cache_and_arena(tmp_path: Path) -> None:
    """The server's growth from no model to one that has used every page it may: all blocks of the
    pool, a step of max_num_tokens, all sequences at once. The allowance is for code, OpenBLAS,
    responses and what Triton keeps for a model."""
    engine = build_engine(save_checkpoint(tmp_path / "checkpoint"), tmp_path / "engine",
                          max_batch_size=MAX_BATCH, max_num_tokens=1024)  # fmt: skip
    memory = engine_memory(EngineFile.read(engine))
    planned = memory.weight_bytes + memory.arena_bytes + KV_TOKENS * memory.kv_bytes_per_token
    repository = tmp_path / "repository"
    write_repository(
        repository,
        repository_settings(engine, ServingOptions(device="cpu", kv_cache_max_tokens=KV_TOKENS)),
    )
    prompt = np.random.default_rng(0).integers(3, 8000, 200).tolist()
    with running(repository, tmp_path) as server:
        before = server.resident_bytes()
        with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
            client.load_model("tensorrt_llm")
        with Stream(server, "tensorrt_llm") as stream:
            for _ in range(2 * MAX_BATCH):
                stream.send(**llm_request(prompt, 50))
            for _ in range(2 * MAX_BATCH):
                stream.next()
        grown = server.resident_bytes() - before
    print(f"planned {planned >> 20} MiB, grown {grown >> 20} MiB")
    assert grown - planned < ALLOWED
