"""What is shown below a table for one data condition: its pictures, calibration, what is left of each modality's own
prediction, proxies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from multimodal_loss.reporting.analysis.fill import FilledTable, Runs
from multimodal_loss.reporting.figures.base import Picture, watermark
from multimodal_loss.reporting.layouts.base import Condition, Layout, Shown
from multimodal_loss.results.collect import Aggregate, Run, aggregate, lookup
from multimodal_loss.results.metrics import CALIBRATION_METRICS

FUSED = "fused"
CALIBRATION_COLUMNS = ("ACC", *CALIBRATION_METRICS)
PROXY_COUNTS = ("alive", "used", "distinct")
MOST_LISTED = 8  # predictions of one run in the calibration table
KEPT_METRICS = ("ACC", "NLL", "ECE")  # of a modality's own prediction, inside a fused model and alone


@dataclass(frozen=True)
class CalibrationLine:
    method: str
    source: str  # a modality's name, or fused
    metrics: Mapping[str, Aggregate]


@dataclass(frozen=True)
class ProxyLine:
    """Proxies of one class: how many are alive, used and distinct, over replicates."""

    method: str
    class_name: str
    counts: Mapping[str, Aggregate]


@dataclass(frozen=True)
class KeptLine:
    """A modality's own prediction inside a fused model, beside the network trained on that modality alone.

    `difference` is that of the accuracies, inside - alone, replicate by replicate.
    """

    method: str
    modality: str
    inside: Mapping[str, Aggregate]
    alone: Mapping[str, Aggregate]
    difference: Aggregate


@dataclass(frozen=True)
class SourceLine:
    """One replicate's metrics of one prediction: a modality's own, or the fused one."""

    condition: str
    method: str
    replicate_id: int
    modality: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Findings:
    """`pictures` lacks those for which nothing is stored; `note` says how to get them."""

    condition: Condition
    pictures: Sequence[Picture]
    calibration: Sequence[CalibrationLine]
    kept: Sequence[KeptLine]
    proxies: Sequence[ProxyLine]
    sources: Sequence[SourceLine]
    note: str = ""


def findings(condition: Condition, layout: Layout, runs: Runs) -> Findings | None:
    """Everything that the finished runs of a condition show; None if there is none."""
    named = [(shown, runs.find(shown.run)) for shown in condition.shown]
    found = [(shown, run) for shown, run in named if run and run.state == "done" and run.profile == layout.profile]
    if not found:
        return None
    judged = found if condition.judged else []
    pictures = [picture for draw in condition.pictures for picture in draw(condition, found)]
    if layout.notice:
        for picture in pictures:
            watermark(picture.figure, layout.notice)
    return Findings(
        condition,
        pictures,
        [line for shown, run in judged for line in calibration(shown.label, run)],
        kept(judged),
        [line for shown, run in found for line in proxies(shown.label, run)],
        [line for shown, run in judged for line in per_replicate(condition.key, shown.label, run)],
        note="" if pictures else condition.without_pictures,
    )


def source_paths(run: Run) -> dict[str, str]:
    """Where each prediction's metrics are: a path per modality, and the fused one, which says nothing new where there
    is one modality.
    """
    paths = {name: f"test/modalities/{name}" for name in run.modalities}
    return paths if len(paths) == 1 else {**paths, FUSED: "test/fused"}


def calibration(label: str, run: Run) -> list[CalibrationLine]:
    """A line per prediction of which anything is known; only for the fused one where there are too many to read."""
    paths, lines = source_paths(run), []
    if len(paths) > MOST_LISTED:
        paths = {FUSED: paths[FUSED]}
    for source, path in paths.items():
        metrics = {metric: aggregate(run.values(f"{path}/{metric}").values()) for metric in CALIBRATION_COLUMNS}
        if any(metric.n for metric in metrics.values()):
            lines.append(CalibrationLine(label, source, metrics))
    return lines


def kept(found: Sequence[tuple[Shown, Run]]) -> list[KeptLine]:
    """A line for each modality of each fused model whose modality was also trained alone, on the same backbone."""
    alone = {(_backbone(run), run.inputs[0]): run for _, run in found if len(run.inputs) == len(run.modalities) == 1}
    lines = []
    for shown, run in found:
        for name in run.modalities if len(run.inputs) > 1 else ():
            other = alone.get((_backbone(run), name))
            if other is None:
                continue
            sources = ((run, f"test/modalities/{name}"), (other, f"test/modalities/{other.modalities[0]}"))
            first, second = (one.values(f"{path}/ACC") for one, path in sources)
            inside, outside = (
                {m: aggregate(one.values(f"{path}/{m}").values()) for m in KEPT_METRICS} for one, path in sources
            )
            paired = [first[r] - second[r] for r in first if r in second]
            lines.append(KeptLine(shown.label, name, inside, outside, aggregate(paired)))
    return lines


def per_replicate(condition: str, label: str, run: Run) -> list[SourceLine]:
    lines = []
    for source, path in source_paths(run).items():
        metrics = {metric: run.values(f"{path}/{metric}") for metric in CALIBRATION_COLUMNS}
        for replicate_id in run.replicates:
            row = {metric: values.get(replicate_id) for metric, values in metrics.items()}
            lines.append(SourceLine(condition, label, replicate_id, source, row))
    return lines


def sources_of_rows(table: FilledTable) -> list[SourceLine]:
    """The same for a table that has no condition of its own: where a row is one run, that run's."""
    lines: list[SourceLine] = []
    for row in table.layout.rows:
        cells = [cell for column in table.layout.columns if (cell := table[row, column])]
        run = cells[0].run if len({cell.cell.run for cell in cells}) == 1 else None
        if run and run.state == "done":
            lines += per_replicate(table.layout.name, row.full_title, run)
    return lines


def sources_csv(lines: Sequence[SourceLine]) -> str:
    """Fractions and nats, eight digits; empty where a metric is undefined."""
    rows = [(line.condition, line.method, line.replicate_id, line.modality, *line.metrics.values()) for line in lines]
    columns = ["condition", "method", "replicate_id", "modality", *CALIBRATION_COLUMNS]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n", float_format="%.8g")


def proxies(label: str, run: Run) -> list[ProxyLine]:
    counts: dict[str, list[list[float]]] = {}
    for kind in PROXY_COUNTS:
        found = [lookup(replicate, f"proxies/{kind}") for replicate in run.replicates.values()]
        counts[kind] = [per_class for per_class in found if isinstance(per_class, list)]
    classes = max((len(per_class) for kind in counts.values() for per_class in kind), default=0)
    titles = run.class_names(classes)
    return [
        ProxyLine(
            label,
            titles[c],
            {
                kind: aggregate(per_class[c] for per_class in found if c < len(per_class))
                for kind, found in counts.items()
            },
        )
        for c in range(classes)
    ]


def _backbone(run: Run) -> str:
    return str(run.get("config/facts/backbone/name"))
