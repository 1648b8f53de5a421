"""The one error type for what a user can cause and mend, and how it is said."""

import json
import math
import re
import sys
from collections.abc import Sequence

# What a terminal obeys instead of showing it, and what XML and UTF-8 cannot hold: control characters, those that turn
# the direction of writing, and halves of pairs.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def one_line(text: object, most: int = 1000) -> str:
    """Text that neither a terminal nor a file format takes for anything but text: on one line, control characters
    written out, and cut where it is longer than `most`.
    """
    line = CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), " ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


class UserError(Exception):
    """Its text is one line: what is wrong, where, and what to do. The entrypoints print it and exit with 2."""

    def __init__(self, text: object) -> None:
        super().__init__(one_line(text))


class MissingData(UserError):
    """Data that a dataset needs are not there; who knows how to get them adds it."""


class TrainingError(UserError):
    """The run cannot go on: numbers that are not finite, or no memory. The entrypoints exit with 1."""


def say(text: object) -> None:
    """One line on standard error, as far as that is open and whatever its encoding."""
    try:
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        print(one_line(text).encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):  # closed, or full
        pass


def shown(value: object) -> str:
    """A config's value as YAML writes it, on one line and not longer than one reads."""
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 80)


def require_number(key: str, value: object, positive: bool = False, integer: bool = False) -> None:
    """Raise UserError unless a config value is a finite number, not negative, and not zero or whole where asked."""
    kind = "whole number" if integer else "number"
    right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not right_type or not math.isfinite(value) or value < 0 or (positive and value == 0):  # type: ignore[operator, arg-type]
        raise UserError(f"{key}={shown(value)}: must be a {kind} {'above 0' if positive else 'of at least 0'}")


def require_choice(key: str, value: object, choices: Sequence[str | bool | None]) -> None:
    """Raise UserError unless a config value is one of the choices."""
    if value not in choices:
        raise UserError(f"{key}={shown(value)}: must be one of {', '.join(map(shown, choices))}")
