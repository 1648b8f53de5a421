"""Tables of a person's own data (dataset=tables), with a row for every run that there is.

Runs that were split differently stand in different tables: their numbers are not of the same test samples. Runs on
inner folds have a table of their own, since what they call their test part is for tuning.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from multimodal_loss.reporting.layout import METHOD_TITLES, Cell, Column, Condition, Layout, Row, Shown
from multimodal_loss.results.collect import Run

RUN = "run="  # in place of overrides, a cell of such a table names its run
METRICS = ("ACC", "FM", "FW", "MCC", "AUC", "AP")
# Which samples are in which part. Not the modalities: whichever a run uses, its samples are the same.
SPLIT_SETTINGS = ("path", "folds", "split_seed")
# What differs between runs without telling their rows apart.
NOT_SETTINGS = re.compile(
    r"name$|^name|^dataset\.label|^fusion\._target_|^backbone\._target_|^fusion\.proxies$|^threads|_dir$"
)


def own_layouts(runs: Mapping[str, Run]) -> list[Layout]:
    """For each `dataset.label` among the runs with dataset=tables, a table per split and one of runs on inner folds."""
    groups: dict[tuple[str, bool, tuple[str, ...]], list[Run]] = {}
    for run in runs.values():
        if run.get("config/dataset/name") == "tables":
            options = run.get("config/dataset")
            inner = options.get("inner_folds") is not None
            split = () if inner else tuple(f"dataset.{key}={options.get(key)}" for key in SPLIT_SETTINGS)
            groups.setdefault((str(options.get("label")), inner, split), []).append(run)
    layouts = []
    for (label, inner, split), of_group in sorted(groups.items()):
        splits = [other for name, _, other in groups if name == label and other]
        differing = [setting for setting in split if any(setting not in other for other in splits)]
        layouts.append(_inner_layout(label, of_group) if inner else _test_layout(label, differing, of_group))
    return layouts


def _test_layout(label: str, differing: list[str], runs: list[Run]) -> Layout:
    """`differing` are the settings that tell this split from others of the same label."""
    table = _layout(", ".join([label, *differing]), label, "test", runs)
    shown = [
        Shown(method, row.title, row.title, (f"{RUN}{run.name}",))
        for run, row in zip(runs, table.rows, strict=True)
        if (method := str(run.get("config/fusion/name"))) in METHOD_TITLES
    ]
    description = "Test scores in percent, a row for every run with the same split of these tables."
    by_fold = all(replicate.get("fold") is not None for run in runs for replicate in run.replicates.values())
    if by_fold:
        description += " Two runs are compared over the folds in which both have the same test samples."
    return replace(
        table,
        description=description,
        conditions=(Condition(table.name, label, tuple(shown)),),
        compared="ACC" if by_fold else "",
    )


def _inner_layout(label: str, runs: list[Run]) -> Layout:
    """Nothing but the scores: figures and tests are of test samples."""
    table = _layout(f"{label}, inner folds", label, "validation", runs)
    return replace(
        table,
        description="Scores in percent on held-out inner folds of the training part, a row for every run: for choosing "
        "settings, no test scores.",
        command=f"{table.command} dataset.inner_folds=FOLDS dataset.inner_fold=FOLD",
    )


def _layout(title: str, label: str, part: str, runs: list[Run]) -> Layout:
    """The table of the scores on one part, without what is drawn or tested."""
    return Layout(
        name=_name(title),
        title=f"Your data: {title}",
        description="",
        command=f"python -m multimodal_loss.train dataset=tables dataset.label={label} dataset.path=FOLDER",
        rows=tuple(Row(run.name, row) for run, row in zip(runs, _titles(runs), strict=True)),
        columns=tuple(Column(metric, metric) for metric in METRICS),
        cells=tuple(
            Cell(run.name, metric, (f"{RUN}{run.name}",), f"{part}/fused/{metric}", expected=len(run.replicates) or 1)
            for run in runs
            for metric in METRICS
        ),
        corner="Run",
        dataset="tables",
    )


def _name(title: str) -> str:
    """For files. Titles that differ only in signs, such as two paths, still have names of their own."""
    plain = re.sub(r"\W+", "_", title)
    return f"own_{plain}" if plain == title else f"own_{plain}_{hashlib.sha256(title.encode()).hexdigest()[:6]}"


def _titles(runs: list[Run]) -> list[str]:
    """Backbone and fusion, and, where two runs share them, the settings that tell these apart."""
    plain = [
        f"{run.get('config/backbone/name')}, {METHOD_TITLES.get(str(run.get('config/fusion/name')), run.name)}"
        for run in runs
    ]
    settings = [dict(_settings(run.get("config") or {})) for run in runs]
    titles = []
    for i, title in enumerate(plain):
        twins = [settings[j] for j, other in enumerate(plain) if other == title]
        differing = [key for key in settings[i] if any(twin.get(key) != settings[i][key] for twin in twins)]
        titles.append(", ".join([title, *(f"{key}={settings[i][key]}" for key in differing)]))
    return titles


def _settings(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        elif not NOT_SETTINGS.search(f"{prefix}{key}"):
            yield f"{prefix}{key}", str(value)
