"""The one check of a config's values: what any value may be, and what the code that takes it says by its types.

A class that a config builds needs no check of its own for the type of an option: `gamma: float` in its constructor
refuses `fusion.gamma=abc`, and `Annotated[int, Rule(...)]` a number out of range. NaN and infinity are refused.
"""

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from multimodal_loss.errors import CONTROL, UserError, shown

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}


class Rule(NamedTuple):
    """What a value of an annotated type must be besides, in words for "must be ..." and as a test."""

    words: str
    holds: Callable[[Any], bool]


def at_most(most: int, least: int = 0) -> Rule:
    return Rule(f"a whole number from {least} to {most}", lambda number: least <= number <= most)


def file_name(most: int) -> Rule:
    """A name that any file system takes, and that leads nowhere else."""

    def holds(name: str) -> bool:
        return 0 < len(name.encode()) <= most and name[0] not in ".- " and not set(name) & set('/\\:*?"<>|')

    return Rule(f'a name of 1 to {most} bytes, without any of / \\ : * ? " < > | and no dot or dash first', holds)


Count = Annotated[int, Rule("a whole number above 0", lambda number: number > 0)]
Natural = Annotated[int, Rule("a whole number of at least 0", lambda number: number >= 0)]
Positive = Annotated[float, Rule("a number above 0", lambda number: number > 0)]
NotNegative = Annotated[float, Rule("a number of at least 0", lambda number: number >= 0)]
Text = Annotated[str, Rule("text that is not empty", lambda text: bool(text.strip()))]


def check_values(node: Any, key: str = "") -> None:
    """Raise UserError for a number that is not finite or above 64 bits, or a control character, wherever it is."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            check_values(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            check_values(value, key)
    elif (isinstance(node, float) and not math.isfinite(node)) or (isinstance(node, int) and abs(node) >= 2**63):
        raise UserError(f"{key}={node}: must be finite, and of 64 bits")
    elif isinstance(node, str) and CONTROL.search(node):
        raise UserError(f"{key}={shown(node)}: holds a control character")


def check_options(prefix: str, given: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise UserError for an option that `target` (a class, or a function) does not have, or of another type than it
    says. A value may be {per_fold: [...]}.
    """
    kinds, takes_others = _stated(target)
    for key, value in given.items():
        if key.startswith("_") or (isinstance(value, Mapping) and "_target_" in value):
            continue
        if key not in kinds and not takes_others:
            raise UserError(f"{prefix}{key}: {target.__name__} has no such option{nearest(key, list(kinds))}")
        for place, one, kind in _entries(f"{prefix}{key}", value, kinds.get(key, Any)):
            if not _fits(one, kind):
                hint = f"; to make it text, quote it: '{place}=\"{one}\"'" if _fits(str(one), kind) else ""
                raise UserError(f"{place}={shown(one)}: must be {_described(kind)}{hint}")


def _entries(key: str, value: Any, kind: Any) -> list[tuple[str, Any, Any]]:
    """What is to be checked of an option, each with its key and type: itself, or what it holds by fold or by name."""
    if isinstance(value, Mapping) and set(value) == {"per_fold"} and isinstance(value["per_fold"], list):
        return [(key, one, kind) for one in value["per_fold"]]
    for part in [kind, *get_args(kind)]:
        if isinstance(value, Mapping) and isinstance(get_origin(part), type) and issubclass(get_origin(part), Mapping):
            return [(f"{key}.{name}", one, get_args(part)[1]) for name, one in value.items()]
    return [(key, value, kind)]


def nearest(name: str, valid: Sequence[str]) -> str:
    """The valid names that come nearest, as a question in brackets; empty where none is near."""
    valid = [one for one in valid if one != name]
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.6)
    near += [v for v in valid if v.split(".")[-1] == name.split(".")[-1] and v not in near]
    return f" (did you mean {' or '.join(near[:3])}?)" if near else ""


@cache
def _stated(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The type of each option, and whether others than these are taken."""
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    parameters = [p for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    hints = typing.get_type_hints(function, localns=vars(typing), include_extras=True)
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return {name: hints.get(name, Any) for name in named}, len(named) < len(parameters)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value as YAML has it is of a type. A type that YAML has no values of is for the code to judge."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, parts[0]) and kind.__metadata__[0].holds(value)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in WORDS:
        return type(value) is kind
    if origin is tuple and parts[-1] is not ...:
        return isinstance(value, list) and len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return isinstance(value, (list, tuple)) and all(_fits(one, parts[0]) for one in value)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _described(kind: Any) -> str:
    """A type in words; those that YAML has no values of are left out."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(kind.__metadata__[0].words)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_described, parts))))
    if origin is Literal:
        return f"one of {', '.join(map(shown, parts))}"
    if origin is tuple and parts[-1] is not ...:
        return f"a list of {len(parts)}, each {_described(parts[0])}"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list, each {_described(parts[0])}"
    return WORDS.get(kind, "")
