"""Reads config.pbtxt: protobuf's text format, without a schema.

Unfilled placeholders (`${…}`) are read where a server refuses them, so that they can be named.
"""

import re
from typing import Any

Message = dict[str, list[Any]]
"""Values by field, in order: str, int, float, bool (as names), Message."""

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*') |
    (?P<placeholder>\$\{[^}\n]*\}) | (?P<word>[A-Za-z_][\w.]*) |
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?) | (?P<sign>[{}\[\]:,;<>])""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_MOST_DEPTH = 100  # a model's configuration has five
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class PbtxtError(ValueError):
    """Says line and what was found."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []  # kind, text, line
        place, line = 0, 1
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise PbtxtError(f"line {line}: {text[place : place + 20].splitlines()[0]!r}")
            if match.lastgroup:
                self._tokens.append((match.lastgroup, match[0], line))
            place = match.end()
            line += match[0].count("\n")
        self._tokens.append(("end", "the end", line))
        self._place = 0
        self._depth = 0

    def _peek(self) -> str:
        return self._tokens[self._place][1]

    def _take(self) -> tuple[str, str, int]:
        self._place += 1
        return self._tokens[self._place - 1]

    def _skip(self, *signs: str) -> bool:
        found = self._peek() in signs
        self._place += found
        return found

    def message(self, closing: str) -> Message:
        fields: Message = {}
        while self._peek() != closing:
            kind, name, line = self._take()
            if kind != "word":
                raise PbtxtError(f"line {line}: expected a field or {closing!r}, found {name!r}")
            self._skip(":")
            values = fields.setdefault(name, [])
            if self._skip("["):
                while not self._skip("]"):
                    values.append(self._value())
                    self._skip(",")
            else:
                values.append(self._value())
            self._skip(",", ";")
        self._take()
        return fields

    def _value(self) -> Any:
        kind, text, line = self._take()
        if text in _CLOSING:
            self._depth += 1
            if self._depth > _MOST_DEPTH:
                raise PbtxtError(f"line {line}: more than {_MOST_DEPTH} messages in each other")
            message = self.message(_CLOSING[text])
            self._depth -= 1
            return message
        if kind == "string":
            parts = [text]
            while self._tokens[self._place][0] == "string":
                parts.append(self._take()[1])
            return "".join(map(_unquoted, parts))
        if kind == "number":
            return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
        if kind in ("word", "placeholder"):
            return {"true": True, "false": False}.get(text, text)
        raise PbtxtError(f"line {line}: expected a value, found {text!r}")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1])


def parse(text: str) -> Message:
    """Raises PbtxtError."""
    return _Reader(text).message("the end")


def refused_by_schema(text: str) -> str | None:
    """What protobuf says of a value that Triton's schema has no place for; None if nothing, if there
    are unfilled placeholders, or if tritonclient is not installed, which has the schema. A field that
    it does not know may be of a newer server."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        return None
    if "${" in text:
        return None
    try:
        text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        return str(error)
    return None


def one(message: Message, field: str, otherwise: Any = None) -> Any:
    """The value of a field that stands once; the last, where it is repeated."""
    return message[field][-1] if message.get(field) else otherwise


def number(message: Message, field: str, otherwise: int) -> int:
    """The same of an integer; an unfilled placeholder counts as absent."""
    value = one(message, field, otherwise)
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def parameters(config: Message) -> dict[str, str]:
    """Of a model's configuration."""
    entries = config.get("parameters", [])
    return {
        str(one(entry, "key", "")): str(one(one(entry, "value", {}), "string_value", ""))
        for entry in entries
    }


def is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and value.strip().startswith("${")


def placeholders(message: Message, path: str = "") -> list[str]:
    """The fields that still hold one, but for parameters, where it means absent."""
    found = []
    for name, values in message.items():
        for value in values:
            if isinstance(value, dict):
                if name != "parameters":
                    label = one(value, "name")
                    found += placeholders(value, f"{path}{name}{f'[{label}]' if label else ''}.")
            elif is_placeholder(value):
                found.append(f"{path}{name}: {value}")
    return found
