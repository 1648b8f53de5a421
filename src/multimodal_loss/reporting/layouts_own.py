"""Tables of a person's own data (dataset=tables): one per data set, with a row for every run that there is."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from multimodal_loss.reporting.layout import METHOD_TITLES, Cell, Column, Condition, Layout, Row, Shown
from multimodal_loss.results.collect import Run

RUN = "run="  # in place of overrides, a cell of such a table names its run
METRICS = ("ACC", "FM", "FW", "MCC", "AUC", "AP")
# What differs between runs without telling their rows apart.
NOT_SETTINGS = re.compile(
    r"name$|^name|^dataset\.label|^fusion\._target_|^backbone\._target_|^fusion\.proxies$|^threads|_dir$"
)


def own_layouts(runs: Mapping[str, Run]) -> list[Layout]:
    """A table for each `dataset.label` among the runs with dataset=tables."""
    labels: dict[str, list[Run]] = {}
    for run in runs.values():
        if run.get("config/dataset/name") == "tables":
            labels.setdefault(str(run.get("config/dataset/label")), []).append(run)
    return [_layout(label, of_label) for label, of_label in sorted(labels.items())]


def _layout(label: str, runs: list[Run]) -> Layout:
    rows = {run.name: Row(run.name, title) for run, title in zip(runs, _titles(runs), strict=True)}
    columns = tuple(Column(metric, metric) for metric in METRICS)
    cells = [
        Cell(run.name, metric, (f"{RUN}{run.name}",), f"test/fused/{metric}", expected=max(len(run.replicates), 1))
        for run in runs
        for metric in METRICS
    ]
    shown = [
        Shown(method, rows[run.name].title, rows[run.name].title, (f"{RUN}{run.name}",))
        for run in runs
        if (method := str(run.get("config/fusion/name"))) in METHOD_TITLES
    ]
    key = re.sub(r"\W+", "_", f"own_{label}")
    return Layout(
        name=key,
        title=f"Your data: {label}",
        description="Test scores in percent, a row for every run on these tables.",
        command=f"python -m multimodal_loss.train dataset=tables dataset.label={label} dataset.path=FOLDER",
        rows=tuple(rows.values()),
        columns=columns,
        cells=tuple(cells),
        conditions=(Condition(key, label, tuple(shown)),),
        corner="Run",
        dataset="tables",
        compared="ACC" if all(run.get("config/folds") is not None for run in runs) else "",
    )


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
