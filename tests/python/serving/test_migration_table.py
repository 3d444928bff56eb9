"""docs/migrate.md says of every parameter and tensor what the code does with it."""

import re
from pathlib import Path

from inflight.serving.schema import TENSORRT_LLM
from inflight.serving.tensors import Support

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "migrate.md").read_text()
PARAMETERS = TEXT.split("## Parameters")[1].split("## Tensors")[0]
TABLE = (ROOT / "backend" / "triton" / "former_parameters.cc").read_text()
# {"key", {"value", …}, Kind::kRefused, …}
ROW = re.compile(r'\{"(\w+)",\s*\{([^}]*)\}(?:,\s*Kind::k(\w+))?')


def section(begin: str, end: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", PARAMETERS.split(begin)[1].split(end)[0]))


def rows() -> dict[str, tuple[bool, str]]:
    """Key -> (some values are not harmless, what is done with those)."""
    found = {key: (bool(values), kind or "NoEffect") for key, values, kind in ROW.findall(TABLE)}
    assert len(found) > 25
    return found


def test_every_parameter_that_is_read_has_a_row() -> None:
    source = "".join(path.read_text() for path in (ROOT / "backend" / "triton").glob("*.cc"))
    read = set(re.findall(r'parameters\.(?:text|flag|number<\w+>)\("(\w+)"', source))
    read |= set(re.findall(r'read_period\(parameters,\s*"(\w+)"', source))
    assert len(read) > 15
    assert read <= section("| read |", "Listed in the log")


def test_every_former_parameter_is_where_the_code_puts_it() -> None:
    harmless = {key for key, (judged, _) in rows().items() if not judged}
    without = {key for key, (judged, kind) in rows().items() if judged and kind == "NoEffect"}
    refused = {key for key, (judged, kind) in rows().items() if judged and kind == "Refused"}
    assert section("Listed in the log", "Served without") == harmless
    named = section("Served without", "The load fails")
    assert without <= named and "decoding_mode" in named
    assert not named & (harmless | refused)
    assert refused <= section("The load fails", "Any other key")


def test_refused_tensors_are_told() -> None:
    refused = {tensor.name for tensor in TENSORRT_LLM.inputs if tensor.support is Support.REFUSED}
    row = next(line for line in TEXT.splitlines() if line.startswith("| beams, "))
    kinds = {
        "beams": ("beam_width",),
        "encoder inputs": ("encoder_", "cross_attention_mask", "skip_cross_attn_blocks"),
        "draft tokens": ("draft_",),
        "prompt tables": ("prompt_embedding_table", "prompt_table_", "prompt_vocab_size", "mrope_"),
        "LoRA": ("lora_",),
        "guided decoding": ("guided_decoding_",),
        "lookahead": ("lookahead_",),
        "disaggregated serving": ("context_phase_params",),
    }
    if "return_context_logits" in refused:
        kinds["context and generation logits"] = ("return_context_", "return_generation_")
    else:
        assert "logits" not in row
    assert all(kind in row for kind in kinds)
    told = tuple(start for starts in kinds.values() for start in starts)
    assert {name for name in refused if not name.startswith(told)} == set()
    for starts in kinds.values():  # nothing is told that is not so
        assert any(name.startswith(starts) for name in refused)
