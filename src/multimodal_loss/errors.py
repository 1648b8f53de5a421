"""The one error type for what a user can cause and mend."""

import json
import math
from collections.abc import Sequence


class UserError(Exception):
    """Its text is one line: what is wrong, where, and what to do. The entrypoints print it and exit with 2."""


class MissingData(UserError):
    """Data that a dataset needs are not there; who knows how to get them adds it."""


class TrainingError(UserError):
    """The run cannot go on: numbers that are not finite, or no memory. The entrypoints exit with 1."""


def require_number(key: str, value: object, positive: bool = False, integer: bool = False) -> None:
    """Raise UserError unless a config value is a finite number, not negative, and not zero or whole where asked."""
    kind = "whole number" if integer else "number"
    right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not right_type or not math.isfinite(value) or value < 0 or (positive and value == 0):  # type: ignore[operator, arg-type]
        raise UserError(f"{key}={value}: must be a {kind} {'above 0' if positive else 'of at least 0'}")


def require_choice(key: str, value: object, choices: Sequence[str | bool | None]) -> None:
    """Raise UserError unless a config value is one of the choices."""
    if value not in choices:
        given, *names = (json.dumps(one).strip('"') for one in (value, *choices))  # null, true and false as in YAML
        raise UserError(f"{key}={given}: not one of {', '.join(names)}")
