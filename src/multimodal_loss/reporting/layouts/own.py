"""Tables of the runs that no table of the paper uses: a row for every one, whatever its dataset and method.

Runs on other data, or split differently, stand in different tables: their numbers are not of the same test samples. So
do runs of before and after a file of the data was changed, which their fingerprints tell.
Runs on inner folds have a table of their own, since what they call their test part is for tuning.
"""

import hashlib
import json
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from multimodal_loss.reporting.figures.runs import RUN_PICTURES
from multimodal_loss.reporting.figures.tables import Sweep, swept_numbers
from multimodal_loss.reporting.layouts.base import Cell, Column, Condition, Layout, Row, Shown
from multimodal_loss.results.collect import Run

METRICS = ("ACC", "FM", "FW", "MCC", "AUC", "AP")
# Which samples are in which part, and what is done to them. Not the modalities: whichever a run uses, its samples are
# the same.
SPLIT_SETTINGS = (
    *("path", "folds", "repeats", "groups", "split_seed", "missing"),
    *("corrupt", "corrupt_share", "corrupt_seed"),
)
# What a run's numbers follow from; rows differ in these.
SETTINGS = ["dataset", "backbone", "fusion", "fusion_input", "optimizer", "scheduler", "trainer", "seeds", "folds"]
NOT_SETTINGS = re.compile(r"_dir$|\._partial_$|\.generated$")
MOST_DRAWN = 12  # runs in one picture
FEWEST_SWEPT = 3  # values that make a sweep
TEST_DESCRIPTION = "Test scores in percent, a row for every run with the same split of these data."
INNER_DESCRIPTION = (
    "Scores in percent on held-out inner folds of the training part, a row for every run: for choosing settings, no "
    "test scores."
)


class Group(NamedTuple):
    """What the runs of one table share."""

    profile: str
    generated: bool
    data: str
    inner: bool
    split: tuple[str, ...]


def own_layouts(runs: Iterable[Run], used: Container[str] = ()) -> list[Layout]:
    """For each dataset title among the runs, a table per split and one of runs on inner folds.

    Runs whose names are `used` stand in other tables: here only beside one that does not and is of the same backbone
    and method, as one value of a sweep may.
    """
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        options = run.get("config/dataset") if isinstance(run.get("config/dataset"), Mapping) else {}
        inner = options.get("inner_folds") is not None
        split = () if inner else tuple(f"dataset.{key}={options[key]}" for key in SPLIT_SETTINGS if key in options)
        data = str(run.get("config/facts/dataset/title") or run.get("config/facts/dataset/name") or "unknown data")
        group = Group(run.profile, run.is_of_generated_data, data, inner, split)
        groups.setdefault(group, []).append(run)
    groups = dict(part for group, every in groups.items() for part in _by_files(group, every))
    layouts = []
    for group, every in sorted(groups.items()):
        own = {_title(run) for run in every if run.name not in used}
        of_group = [run for run in every if _title(run) in own]
        if not of_group:
            continue
        splits = [other.split for other in groups if other.data == group.data and other.split]
        differing = [setting for setting in group.split if any(setting not in other for other in splits)]
        layouts.append(_layout(group, differing, of_group))
    return layouts


def _by_files(group: Group, runs: Sequence[Run]) -> Iterator[tuple[Group, list[Run]]]:
    """The runs, apart by what they read where the same settings read different files: one was changed in between."""
    read: dict[str, set[str]] = {}
    for run in runs:
        if fingerprint := run.get("data/fingerprint"):
            read.setdefault(json.dumps(run.get("config/dataset"), sort_keys=True), set()).add(str(fingerprint))
    if all(len(fingerprints) == 1 for fingerprints in read.values()):
        yield group, list(runs)
        return
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(str(run.get("data/fingerprint"))[:8], []).append(run)
    for fingerprint, part in parts.items():
        yield group._replace(split=(*group.split, f"files {fingerprint}")), part


def _layout(group: Group, differing: Sequence[str], runs: Sequence[Run]) -> Layout:
    """`differing` are the settings that tell this split from others of the same data."""
    notices = ["quick profile"] * (group.profile != "full") + ["generated data"] * group.generated
    title = ", ".join([group.data, *differing, *["inner folds"] * group.inner, *notices])
    name = _name(title)
    told = _told_apart(runs)
    runs = sorted(runs, key=lambda run: (_title(run), [(one[0], _sortable(one[1])) for one in told[run.name].items()]))
    said = {name: ", ".join(f"{key}={value}" for key, value in own.items()) for name, own in told.items()}
    rows = [Row(run.name, _title(run), note=said[run.name]) for run in runs]
    part = "validation" if group.inner else "test"
    finished = [(run, row) for run, row in zip(runs, rows, strict=True) if run.state == "done"][:MOST_DRAWN]
    labels = [_label(run, told[run.name]) for run, _ in finished]
    shown = tuple(Shown(row.key, text, row.key, text) for (_, row), text in zip(finished, labels, strict=True))
    replicates = [replicate for run in runs for replicate in run.replicates.values()]
    by_fold = bool(replicates) and all(replicate.get("fold") is not None for replicate in replicates)
    compared = by_fold and not group.inner
    description = TEST_DESCRIPTION
    if compared:
        description += " Two runs are compared over the folds in which both have the same test samples."
    if len(runs) > MOST_DRAWN:
        description += f" Pictures show the first {MOST_DRAWN} runs."
    return Layout(
        name=name,
        title=f"Your runs: {title}",
        description=INNER_DESCRIPTION if group.inner else description,
        command=f"python -m multimodal_loss.train dataset={runs[0].get('config/facts/dataset/name')} ..."
        "    # the command that started a run also continues it",
        rows=tuple(rows),
        columns=tuple(Column(metric, metric) for metric in METRICS),
        cells=tuple(Cell(row.key, metric, row.key, f"{part}/fused/{metric}") for row in rows for metric in METRICS),
        conditions=(Condition(name, group.data, shown, RUN_PICTURES),) if shown and not group.inner else (),
        profile=group.profile,
        corner="Run",
        compared="ACC" if compared else "",
        notice="; ".join(notices).upper(),
        pictures=(partial(swept_numbers, sweeps=_sweeps(runs)),),
    )


def _name(title: str) -> str:
    """For files. Titles that differ only in signs, such as two paths, still have names of their own."""
    plain = re.sub(r"\W+", "_", title, flags=re.ASCII)[:80]
    return f"own_{plain}" if plain == title else f"own_{plain}_{hashlib.sha256(title.encode()).hexdigest()[:6]}"


def _told_apart(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """By run's name what differs in the data and, where runs share backbone and method, the settings that differ."""
    every = {run.name: _settings_of(run) for run in runs}
    told = {}
    for run in runs:
        twins = [every[other.name] for other in runs if _title(other) == _title(run)]
        told[run.name] = {
            key: value
            for key, value in every[run.name].items()
            if any(other.get(key) != value for other in (every.values() if key.startswith("dataset.") else twins))
        }
    return told


def _sweeps(runs: Sequence[Run]) -> list[Sweep]:
    """Finished runs that differ in one number alone, where it takes three values or more."""
    found: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[float, str]] = {}
    told = _told_apart(runs)
    for run in runs:
        settings = _settings_of(run)
        for key, number in ((key, _number(text)) for key, text in settings.items()):
            if number is not None and run.state == "done":
                rest = tuple(one for one in settings.items() if one[0] != key)
                found.setdefault((key, _title(run), rest), {})[number] = run.name
    sweeps = []
    for (key, *_), values in found.items():
        if len(values) >= FEWEST_SWEPT:
            common = set.intersection(*(set(told[name].items()) for name in values.values()))
            label = _label(next(run for run in runs if run.name in values.values()), dict(sorted(common)))
            sweeps.append(Sweep(key, label, tuple(sorted(values.items()))))
    return sweeps


def _label(run: Run, settings: Mapping[str, str]) -> str:
    """In pictures, where there is little room: keys by their last part."""
    return ", ".join([_title(run), *(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _sortable(text: str) -> tuple[float, str]:
    number = _number(text)
    return (math.inf if number is None else number, text)


def _settings_of(run: Run) -> dict[str, str]:
    return dict(_settings({key: run.get(f"config/{key}") for key in SETTINGS}))


def _title(run: Run) -> str:
    parts = [run.get(f"config/facts/{part}/title") for part in ("backbone", "method")]
    return ", ".join(dict.fromkeys(str(part) for part in parts if part)) or run.name


def _settings(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their keys; what is built is named by its class."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.rstrip("."), str(value).rpartition(".")[2]
        elif value is not None and not NOT_SETTINGS.search(f"{prefix}{key}"):
            yield f"{prefix}{key}", str(value)
