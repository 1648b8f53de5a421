"""Where the numbers come from: code, versions, hardware and dates of the runs behind a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multimodal_loss.results.collect import Run, lookup


def provenance(runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs have in common, ready for JSON; where they differ, every value is listed."""
    started = sorted(str(run.get("started")) for run in runs if run.get("started"))
    ended = sorted(str(run.get("ended")) for run in runs if run.get("ended"))
    return {
        "runs": len(runs),
        "hashes": " ".join(sorted(run.hash for run in runs)),
        "first_started": started[0] if started else None,
        "last_ended": ended[-1] if ended else None,
        "training_seconds": round(sum(map(_seconds, runs)), 1),
        "git": _distinct(filter(None, map(_git, runs))),
        "device": _distinct(run.get("device") for run in runs if run.get("device")),
        "hardware": _merged([run.get("hardware") for run in runs]),
        "versions": _merged([run.get("versions") for run in runs]),
    }


def may_hold(environment: Mapping[str, Any], hashes: Iterable[str]) -> bool:
    """Whether any of the runs may be among those that an environment of `provenance` is of; older ones do not say."""
    own = str(environment.get("hashes", "")).split()
    return not own or not set(own).isdisjoint(hashes)


def machine(results: Iterable[Mapping[str, Any]]) -> str:
    """The processors that the runs used, as text; empty where none is recorded. `results` may also hold environments
    that `provenance` made.
    """
    return ", ".join(dict.fromkeys(name for result in results for name in _processors(result)))


def _processors(result: Mapping[str, Any]) -> list[str]:
    on_gpu = {device.startswith("cuda") for device in listed(lookup(result, "device"))}
    threads = " or ".join(listed(lookup(result, "hardware/threads")))
    cpus = [f"{cpu} ({threads} thread{'s' * (threads != '1')})" for cpu in listed(lookup(result, "hardware/cpu"))]
    return (listed(lookup(result, "hardware/gpu")) if True in on_gpu else []) + (cpus if False in on_gpu else [])


def listed(value: object) -> list[str]:
    """The texts of a value of which there may be several, or none."""
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one is not None]


def _seconds(run: Run) -> float:
    """Training time of a run: of all replicates where each trains alone (folds, mini-batches), else of the longest."""
    seconds = run.values("seconds").values()
    folds = any(replicate.get("fold") is not None for replicate in run.replicates.values())
    alone = folds or run.get("config/trainer/batch_size") is not None
    return sum(seconds) if alone else max(seconds, default=0.0)


def _git(run: Run) -> str:
    sha = str(run.get("git/sha") or "")
    return f"{sha} (with local changes)" if sha and run.get("git/dirty") else sha


def _merged(tables: Sequence[object]) -> dict[str, Any]:
    found = [table for table in tables if isinstance(table, Mapping)]
    keys = dict.fromkeys(key for table in found for key in table)
    return {str(key): _distinct(table[key] for table in found if key in table) for key in keys}


def _distinct(values: Any) -> Any:
    """The one value, or the list of different ones in order of appearance."""
    unique = list({str(value): value for value in values}.values())
    return unique[0] if len(unique) == 1 else unique
