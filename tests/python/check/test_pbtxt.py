"""The reader of config.pbtxt, against protobuf's own."""

import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from inflight.check.pbtxt import Message, PbtxtError, one, parameters, parse, placeholders
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "model_repository").glob("*/config.pbtxt"))

HARD = r"""
name: "m" # a comment "with" { signs }
max_batch_size: 8
input [ { name: 'a', data_type: TYPE_INT32, dims: [ -1, 2 ] }, { name: "b" data_type: TYPE_FP32 dims: 1 dims: 3 } ]
output { name: "c\"\\\n\t" data_type: TYPE_STRING dims: [ ] }
instance_group: < count: 2; kind: KIND_CPU >
model_transaction_policy { decoupled: true }
dynamic_batching { max_queue_delay_microseconds: 50 default_queue_policy { max_queue_size: 4 } }
parameters { key: "k" value: { string_value: "one " "two" } }
parameters: { key: "empty" value { string_value: "" } }
"""


def same(ours: Message, theirs: Any) -> None:
    """Every field that is set there is here with its values, and no other."""
    listed = {descriptor.name: value for descriptor, value in theirs.ListFields()}
    set_here = {name for name, values in ours.items() if values not in ([0], [False], [""], [])}
    if "parameters" in listed:
        expected = {key: value.string_value for key, value in listed.pop("parameters").items()}
        assert parameters(ours) == expected
    if "input_map" in listed or "output_map" in listed:  # maps, too
        for name in ("input_map", "output_map"):
            entries = {one(entry, "key"): one(entry, "value") for entry in ours.get(name, [])}
            assert entries == dict(listed.pop(name, {}))
    assert listed.keys() <= ours.keys()
    assert set_here - listed.keys() <= {"parameters", "input_map", "output_map", "dims", "reshape",
                                        "shape", "kind"}  # fmt: skip
    for name, value in listed.items():
        values = (
            list(value) if hasattr(value, "__len__") and not isinstance(value, str) else [value]
        )
        assert len(values) == len(ours[name])
        field = theirs.DESCRIPTOR.fields_by_name[name]
        for mine, other in zip(ours[name], values, strict=True):
            if field.message_type is not None:
                same(mine, other)
            elif field.enum_type is not None:
                assert mine == field.enum_type.values_by_number[other].name
            else:
                assert mine == other


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_repository(path: Path) -> None:
    text = path.read_text()
    same(parse(text), text_format.Parse(text, model_config_pb2.ModelConfig()))


def test_every_way_of_writing() -> None:
    theirs = text_format.Parse(HARD, model_config_pb2.ModelConfig())
    same(parse(HARD), theirs)
    assert parse(HARD)["output"][0]["name"] == ['c"\\\n\t']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "m', "line 1"),
        ('name "m"\ninput [ {', "line 2: expected a field or '}', found 'the end'"),
        ("name: }", "line 1: expected a value, found '}'"),
        ("\n\n}", "line 3: expected a field or 'the end', found '}'"),
        ("data_type: TYPE_${x}", "line 1: expected a field or 'the end', found '${x}'"),
        ("a: @", "line 1: '@'"),
        ('"a\nb"', "line 1"),
        (100_000 * "a {\n", "line 101: more than 100 messages in each other"),
    ],
)
def test_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(PbtxtError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_long_text_takes_no_longer_for_each_line() -> None:
    began = time.monotonic()
    assert len(parse(400_000 * "a: 1\n")["a"]) == 400_000
    # 2 s; minutes where lines are counted anew.
    assert time.monotonic() - began < 30


def test_placeholders() -> None:
    config = parse(
        'max_batch_size: ${size}\ninput [ { name: "a" data_type: ${type} } ]\n'
        'parameters { key: "k" value { string_value: "${v}" } }'
    )
    assert placeholders(config) == ["max_batch_size: ${size}", "input[a].data_type: ${type}"]
