"""What is shown below a table for one data condition: Figure 4, reliability, training curves, calibration, what is left
of each modality's own prediction, proxies.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_loss.reporting import appendix_c, figures, opportunity
from multimodal_loss.reporting.figures import Line, Picture
from multimodal_loss.reporting.layout import Condition, Layout, Shown
from multimodal_loss.reporting.tables import RunName
from multimodal_loss.results.collect import Aggregate, Run, aggregate, lookup, read_history, read_predictions
from multimodal_loss.results.metrics import CALIBRATION_METRICS, ReliabilityBins, reliability_bins

FUSED = "fused"
CALIBRATION_COLUMNS = ("ACC", *CALIBRATION_METRICS)
PROXY_COUNTS = ("alive", "used", "distinct")
MOST_LISTED = 8  # predictions of one run in the calibration table
KEPT_METRICS = ("ACC", "NLL", "ECE")  # of a modality's own prediction, inside a fused model and alone

FIGURE_4_CAPTION = (
    "Share of test samples by the probability that each modality alone gives to their true class; all replicates "
    "pooled, each modality sums to 100 %."
)
RELIABILITY_CAPTION = (
    "Accuracy against confidence of each modality's own prediction and of the fused one, 15 bins, all replicates "
    "pooled. On the diagonal a model is as often right as it is sure; below it is over-confident."
)
TRAINING_CAPTION = (
    "Training loss, light lines for single replicates and a strong one for their mean. Methods minimise different "
    "losses: compare shapes and lengths, not heights."
)


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
    replicate: int
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


def findings(condition: Condition, layout: Layout, runs: Mapping[str, Run], run_name: RunName) -> Findings | None:
    """Everything that the finished runs of a condition show; None if there is none."""
    named = [(shown, runs.get(run_name(shown.overrides))) for shown in condition.shown if runs]
    found = [(shown, run) for shown, run in named if run and run.state == "done" and run.profile == layout.profile]
    if not found:
        return None
    draw = {"appendix_c": appendix_c.pictures, "table_3": _pictures_of_table_3}.get(layout.kind, _pictures)
    # Elsewhere the runs are those of a table that says it.
    judged = found if layout.kind in ("table", "table_3") else []
    pictures = list(draw(condition, found))
    if layout.notice:
        for picture in pictures:
            figures.watermark(picture.figure, layout.notice)
    return Findings(
        condition,
        pictures,
        [line for shown, run in judged for line in calibration(shown.label, run)],
        kept(judged),
        [line for shown, run in found for line in proxies(shown.label, run)],
        [line for shown, run in judged for line in per_replicate(condition.key, shown.label, run)],
        note=appendix_c.NOTHING_STORED if layout.kind == "appendix_c" and not pictures else "",
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
    """A line for each modality of each fused model whose modality was also trained alone."""
    alone = {run.modalities[0]: run for shown, run in found if shown.method == "unimodal" and len(run.modalities) == 1}
    lines = []
    for shown, run in found:
        for name in run.modalities if len(run.modalities) > 1 else ():
            if name not in alone:
                continue
            values = [one.values(f"test/modalities/{name}/ACC") for one in (run, alone[name])]
            paired = [values[0][r] - values[1][r] for r in values[0] if r in values[1]]
            inside, outside = (
                {m: aggregate(one.values(f"test/modalities/{name}/{m}").values()) for m in KEPT_METRICS}
                for one in (run, alone[name])
            )
            lines.append(KeptLine(shown.label, name, inside, outside, aggregate(paired)))
    return lines


def per_replicate(condition: str, label: str, run: Run) -> list[SourceLine]:
    lines = []
    for source, path in source_paths(run).items():
        metrics = {metric: run.values(f"{path}/{metric}") for metric in CALIBRATION_COLUMNS}
        for number in run.replicates:
            row = {metric: values.get(number) for metric, values in metrics.items()}
            lines.append(SourceLine(condition, label, number, source, row))
    return lines


def sources_csv(lines: Sequence[SourceLine]) -> str:
    """Fractions and nats, eight digits; empty where a metric is undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["condition", "method", "replicate", "modality", *CALIBRATION_COLUMNS])
    for line in lines:
        numbers = ["" if value is None else f"{value:.8g}" for value in line.metrics.values()]
        writer.writerow([line.condition, line.method, line.replicate, line.modality, *numbers])
    return text.getvalue()


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


def _pictures(condition: Condition, found: Sequence[tuple[Shown, Run]]) -> Iterator[Picture]:
    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    sources: dict[str, dict[Line, ReliabilityBins]] = {}
    for line, (shown, run) in zip(_lines(found), found, strict=True):
        predictions = read_predictions(run)
        if predictions:
            names = run.modality_names(_modalities(predictions))
            panels.setdefault(shown.panel, {}).update(figures.true_class_shares(predictions, names))
            for source, bins in _reliability(predictions, names).items():
                sources.setdefault(source, {})[line] = bins
    if panels:
        name = f"figure_4_{condition.key}"
        figure = figures.true_class_panels(panels)
        yield Picture(name, "Figure 4: probability of the true class, per modality", FIGURE_4_CAPTION, figure, png=name)
    if FUSED in sources:  # last, as in the tables
        sources[FUSED] = sources.pop(FUSED)
    if sources:
        figure = figures.reliability_figure(sources)
        yield Picture(f"reliability_{condition.key}", "Reliability", RELIABILITY_CAPTION, figure)
    yield from _training_curves(condition, found)


def _pictures_of_table_3(condition: Condition, found: Sequence[tuple[Shown, Run]]) -> Iterator[Picture]:
    yield from opportunity.pictures(condition, found)
    yield from _training_curves(condition, found)


def _training_curves(condition: Condition, found: Sequence[tuple[Shown, Run]]) -> Iterator[Picture]:
    curves = {line: read_history(run) for line, (_, run) in zip(_lines(found), found, strict=True)}
    drawn = {line: replicates for line, replicates in curves.items() if replicates}
    if drawn:
        figure = figures.training_figure(drawn)
        yield Picture(f"training_{condition.key}", "Training curves", TRAINING_CAPTION, figure)


def _lines(found: Sequence[tuple[Shown, Run]]) -> list[Line]:
    """Runs of the same method share a colour; the dashes tell them apart."""
    seen: dict[str, int] = {}
    lines = []
    for shown, _ in found:
        position = seen.get(shown.method, 0)
        seen[shown.method] = position + 1
        lines.append(Line(shown.method, shown.label, figures.line_style(position)))
    return lines


def _modalities(predictions: Mapping[str, NDArray[Any]]) -> int:
    return next(int(array.shape[1]) for key, array in predictions.items() if key.endswith("/modalities"))


def _reliability(predictions: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, ReliabilityBins]:
    """Per modality and fused (where there is more than one modality), all replicates pooled."""
    replicates = sorted({key.partition("/")[0] for key in predictions})
    target = np.concatenate([predictions[f"{r}/target"] for r in replicates])
    modalities = np.concatenate([predictions[f"{r}/modalities"] for r in replicates])
    sources = {name: modalities[:, m] for m, name in enumerate(names)}
    if len(names) > 1:
        sources[FUSED] = np.concatenate([predictions[f"{r}/fused"] for r in replicates])
    return {source: reliability_bins(target, probabilities) for source, probabilities in sources.items()}
