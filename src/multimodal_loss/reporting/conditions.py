"""What is shown below a table for one data condition: Figure 4, reliability, training curves, calibration, proxies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multimodal_loss.reporting import figures
from multimodal_loss.reporting.figures import Line
from multimodal_loss.reporting.layouts import Condition, Layout, Shown
from multimodal_loss.reporting.tables import RunName
from multimodal_loss.results.collect import Aggregate, Run, aggregate, lookup, read_history, read_predictions
from multimodal_loss.results.metrics import CALIBRATION_METRICS, ReliabilityBins, reliability_bins

FUSED = "fused"
CALIBRATION_COLUMNS = ("ACC", *CALIBRATION_METRICS)
PROXY_COUNTS = ("alive", "used", "distinct")


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
class Findings:
    """`pictures` maps a file name to a figure; it lacks those for which nothing is stored."""

    condition: Condition
    pictures: Mapping[str, Figure]
    calibration: Sequence[CalibrationLine]
    proxies: Sequence[ProxyLine]


def findings(condition: Condition, layout: Layout, runs: Mapping[str, Run], run_name: RunName) -> Findings | None:
    """Everything that the finished runs of a condition show; None if there is none."""
    named = [(shown, runs.get(run_name(shown.overrides))) for shown in condition.shown if runs]
    found = [(shown, run) for shown, run in named if run and run.state == "done" and run.profile == layout.profile]
    if not found:
        return None
    return Findings(
        condition,
        dict(_pictures(condition, found)),
        [line for shown, run in found for line in calibration(shown.label, run)],
        [line for shown, run in found for line in proxies(shown.label, run)],
    )


def calibration(label: str, run: Run) -> list[CalibrationLine]:
    """A line per modality and one for the fused prediction, which says nothing new where there is one modality."""
    paths = {name: f"test/modalities/{name}" for name in run.modalities}
    if len(paths) != 1:
        paths[FUSED] = "test/fused"
    lines = []
    for source, path in paths.items():
        metrics = {metric: aggregate(run.values(f"{path}/{metric}").values()) for metric in CALIBRATION_COLUMNS}
        if any(metric.n for metric in metrics.values()):
            lines.append(CalibrationLine(label, source, metrics))
    return lines


def proxies(label: str, run: Run) -> list[ProxyLine]:
    counts: dict[str, list[list[float]]] = {}
    for kind in PROXY_COUNTS:
        found = [lookup(replicate, f"proxies/{kind}") for replicate in run.replicates.values()]
        counts[kind] = [per_class for per_class in found if isinstance(per_class, list)]
    classes = max((len(per_class) for kind in counts.values() for per_class in kind), default=0)
    names = run.get("dataset/classes")
    titles = names if isinstance(names, list) and len(names) == classes else list(range(classes))
    return [
        ProxyLine(
            label,
            str(titles[c]),
            {
                kind: aggregate(per_class[c] for per_class in found if c < len(per_class))
                for kind, found in counts.items()
            },
        )
        for c in range(classes)
    ]


def _pictures(condition: Condition, found: Sequence[tuple[Shown, Run]]) -> Iterator[tuple[str, Figure]]:
    lines = _lines([shown for shown, _ in found])
    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    sources: dict[str, dict[Line, ReliabilityBins]] = {}
    curves = {}
    for line, (shown, run) in zip(lines, found, strict=True):
        predictions = read_predictions(run)
        if predictions:
            names = _modality_names(run, predictions)
            panels.setdefault(shown.panel, {}).update(figures.true_class_shares(predictions, names))
            for source, bins in _reliability(predictions, names).items():
                sources.setdefault(source, {})[line] = bins
        curves[line] = read_history(run)
    if panels:
        yield f"figure_4_{condition.key}", figures.true_class_panels(panels)
    if FUSED in sources:  # last, as in the tables
        sources[FUSED] = sources.pop(FUSED)
    if sources:
        yield f"reliability_{condition.key}", figures.reliability_figure(sources)
    drawn = {line: replicates for line, replicates in curves.items() if replicates}
    if drawn:
        yield f"training_{condition.key}", figures.training_figure(drawn)


def _lines(shown: Sequence[Shown]) -> list[Line]:
    """Runs of the same method share a colour; the dashes tell them apart."""
    seen: dict[str, int] = {}
    lines = []
    for run in shown:
        position = seen.get(run.method, 0)
        seen[run.method] = position + 1
        lines.append(Line(run.method, run.label, figures.line_style(position)))
    return lines


def _modality_names(run: Run, predictions: Mapping[str, NDArray[Any]]) -> list[str]:
    count = next(array.shape[1] for key, array in predictions.items() if key.endswith("/modalities"))
    return run.modalities if len(run.modalities) == count else [f"modality {m + 1}" for m in range(count)]


def _reliability(predictions: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, ReliabilityBins]:
    """Per modality and fused (where there is more than one modality), all replicates pooled."""
    replicates = sorted({key.partition("/")[0] for key in predictions})
    target = np.concatenate([predictions[f"{r}/target"] for r in replicates])
    modalities = np.concatenate([predictions[f"{r}/modalities"] for r in replicates])
    sources = {name: modalities[:, m] for m, name in enumerate(names)}
    if len(names) > 1:
        sources[FUSED] = np.concatenate([predictions[f"{r}/fused"] for r in replicates])
    return {source: reliability_bins(target, probabilities) for source, probabilities in sources.items()}
