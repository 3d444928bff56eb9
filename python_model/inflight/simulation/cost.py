"""The price of a step: bytes and operations of a model over the rates of a GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from inflight._core.simulation import CostModel, SmallSteps
from inflight.simulation.gpus import GPUS, Gpu
from inflight.simulation.models import ModelShape


@dataclass(frozen=True)
class Calibration:
    """What is fitted to measured steps of one H200 (calibration.py), bfloat16."""

    one_launch: float  # seconds a layer beyond its weights, of one row, all layers one launch
    few_rows: float  # the same where a layer's kernels are those of up to 64 rows
    further_row: float  # seconds a layer of each row more there
    many_rows: float  # seconds a layer by which kernels of more rows read weights later
    linear_flops: float  # operations/s of linears of many rows

    @property
    def linear_share(self) -> float:
        """Of the peak; other GPUs are taken to reach as much of theirs."""
        return self.linear_flops / GPUS["H200"].peak_flops


# Rows up to which all layers of a step are one launch (kernels/decoder_run, max_rows), and seconds
# that each but the first costs a layer for each of its elements: 0.5 ns of a 1B, 0.76 of an 8B
# (docs/notes/layers_in_one_launch.md).
_NARROW, _ONE_LAUNCH_NARROW_ROWS, _ONE_LAUNCH_ROWS = 2048, 8, 4
_ONE_LAUNCH_ROW_ELEMENT = 0.6e-9
# Rows up to which a layer's linears are stripes, slices and bands (kernels/gemm, kMaxSkinnyRows).
_FEW_ROWS = 64


def one_launch_rows_of(hidden_size: int) -> int:
    return _ONE_LAUNCH_NARROW_ROWS if hidden_size <= _NARROW else _ONE_LAUNCH_ROWS


def read_calibration(path: Path) -> Calibration:
    return Calibration(**json.loads(path.read_text()))


# Written by `scripts/simulate.py --calibrate --keep`.
CALIBRATION_FILE = Path(__file__).with_name("calibration.json")
CALIBRATION = read_calibration(CALIBRATION_FILE)

# Of the maximum of reading weights and multiplying by them. Steps of 128 rows alone depend on it,
# too few to fit it beside `many_rows`.
_SHARPNESS = 3.0
# Measured, not fitted (docs/performance.md): norms and rope pass over a row of a layer's
# activations so often; prompts' attention with heads of 128 runs at so many operations/s, and heads
# of 64, bound by instructions for each pair of query and key, at 456e12, so as long as heads of so
# many elements; of the bandwidth at which weights are read so much is left to generated tokens' keys and values;
# from a step's last kernel to the next one's first; the host's work.
_PASSES_OF_ROWS = 10
_ATTENTION_FLOPS = 617e12
_LEAST_PAIR_ELEMENTS = 64 * _ATTENTION_FLOPS / 456e12
_KEYS_SHARE = 0.9
_GAP = 10e-6
_HOST_FIXED = 2e-6
_HOST_PER_SEQUENCE = 0.05e-6
_LOGITS_BYTES = 4 * 2  # float32, written and read
# An all-reduce of few bytes among the GPUs of a host; a guess, nothing here has measured one.
_COLLECTIVE_LATENCY = 10e-6
_MEMORY_SHARE = 0.9  # of the GPU's that weights and cache may take, the rest is working memory


@dataclass(frozen=True)
class Machine:
    """A replica's hardware: `num_gpus` of a kind that share a model by tensor parallelism."""

    model: ModelShape
    gpu: Gpu
    num_gpus: int = 1
    weight_bytes: float = 2  # a value
    kv_bytes: float = 2  # a value

    def __post_init__(self) -> None:
        if self.num_gpus < 1 or self.model.num_kv_heads % self.num_gpus:
            raise ValueError(
                f"{self.num_gpus} GPUs cannot share {self.model.num_kv_heads} kv heads evenly"
            )

    @property
    def kv_bytes_per_token(self) -> float:
        """Of one GPU."""
        return self.model.kv_bytes_per_token(self.kv_bytes) / self.num_gpus

    def num_blocks(self, tokens_per_block: int) -> int:
        """Of the KV pool. Raises ValueError if the weights leave no room for one."""
        weights = self.model.num_params * self.weight_bytes / self.num_gpus
        left = self.gpu.memory * _MEMORY_SHARE - weights
        count = int(left // (self.kv_bytes_per_token * tokens_per_block))
        if count < 1:
            raise ValueError(
                f"{self.model.name} has {weights / 1e9:.1f} GB of weights a GPU; "
                f"{_MEMORY_SHARE:.0%} of a {self.gpu.name}'s {self.gpu.memory / 1e9:.1f} GB leave "
                "no room for a KV cache: more GPUs a replica?"
            )
        return count


def cost_model(machine: Machine, calibration: Calibration = CALIBRATION) -> CostModel:
    """Coefficients of one GPU's share of a step; all GPUs of a replica work alike."""
    model, gpu, n = machine.model, machine.gpu, machine.num_gpus
    linear_flops = gpu.peak_flops * calibration.linear_share * n
    attention_flops = gpu.peak_flops * _ATTENTION_FLOPS / GPUS["H200"].peak_flops * n
    share_of_bytes = machine.weight_bytes / n
    pair_elements = max(model.head_dim, _LEAST_PAIR_ELEMENTS)
    row_bytes = _PASSES_OF_ROWS * model.num_layers * model.hidden_size * 2
    beside = _GAP
    per_row_moved = row_bytes / gpu.read
    if n > 1:  # two all-reduces a layer, each moves 2 (n - 1) / n of the bytes (ring)
        beside += 2 * model.num_layers * _COLLECTIVE_LATENCY
        moved = 2 * model.num_layers * model.hidden_size * 2 * 2 * (n - 1) / n
        per_row_moved += moved / gpu.peer_link
    return CostModel(
        fixed=beside,
        small_steps=[
            SmallSteps(
                max_rows=one_launch_rows_of(model.hidden_size),
                fixed=model.num_layers * calibration.one_launch,
                per_further_row=model.num_layers * model.hidden_size * _ONE_LAUNCH_ROW_ELEMENT,
            ),
            SmallSteps(
                max_rows=_FEW_ROWS,
                fixed=model.num_layers * calibration.few_rows,
                per_further_row=model.num_layers * calibration.further_row,
            ),
        ],
        launches=model.num_layers * calibration.many_rows,
        weights=model.layer_params * share_of_bytes / gpu.read,
        per_row=2 * model.layer_params / linear_flops,
        sharpness=_SHARPNESS,
        per_row_moved=per_row_moved,
        head_weights=model.head_params * share_of_bytes / gpu.read,
        per_logits_row=2 * model.head_params / linear_flops,
        per_logits_row_moved=_LOGITS_BYTES * model.vocab_size / n / gpu.read,
        per_generation_key=machine.kv_bytes_per_token / (_KEYS_SHARE * gpu.read),
        per_prompt_pair=4 * model.num_heads * pair_elements * model.num_layers / attention_flops,
        per_host_copy_byte=1 / gpu.host_link,
        host_fixed=_HOST_FIXED,
        host_per_sequence=_HOST_PER_SEQUENCE,
    )
