"""Options that several commands have: a dataclass with a field each; and bounds of options."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

# Of what the library reads an option into: of a larger number it would take its default.
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
MAX_THREADS = 4096


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as Typer is to see it: in the place of a parameter that is a dataclass there are its
    fields, annotated as Typer's parameters are."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type] = {}
    parameters = []
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        if not is_dataclass(kind):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        hints = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(kind)
        ]

    @functools.wraps(command)
    def call(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    call.__signature__ = signature.replace(parameters=parameters)
    return call
