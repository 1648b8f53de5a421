"""Where the numbers come from: code, versions, hardware and dates of the runs behind a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_loss.results.collect import Run


def provenance(runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs have in common, ready for JSON; where they differ, every value is listed."""
    started = sorted(str(run.get("started")) for run in runs if run.get("started"))
    ended = sorted(str(run.get("ended")) for run in runs if run.get("ended"))
    return {
        "runs": len(runs),
        "first_started": started[0] if started else None,
        "last_ended": ended[-1] if ended else None,
        # Replicates of a run train together: its longest one is its time.
        "training_seconds": round(sum(max(run.values("seconds").values(), default=0.0) for run in runs), 1),
        "git": _distinct(filter(None, map(_git, runs))),
        "device": _distinct(run.get("device") for run in runs if run.get("device")),
        "hardware": _merged([run.get("hardware") for run in runs]),
        "versions": _merged([run.get("versions") for run in runs]),
    }


def _git(run: Run) -> str:
    sha = run.get("git/sha")
    if not sha:
        return ""
    return f"{sha} (with local changes)" if run.get("git/dirty") else str(sha)


def _merged(tables: Sequence[object]) -> dict[str, Any]:
    found = [table for table in tables if isinstance(table, Mapping)]
    keys = dict.fromkeys(key for table in found for key in table)
    return {str(key): _distinct(table[key] for table in found if key in table) for key in keys}


def _distinct(values: Any) -> Any:
    """The one value, or the list of different ones in order of appearance."""
    unique = list({str(value): value for value in values}.values())
    return unique[0] if len(unique) == 1 else unique
