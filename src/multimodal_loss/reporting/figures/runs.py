"""What the runs of a condition have stored, drawn: Figure 4, reliability, training curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from multimodal_loss.reporting.figures.base import (
    INK,
    MODALITY_COLOURS,
    Line,
    Picture,
    fitted,
    grid,
    label_all,
    lines,
    shared_legend,
    styled,
)
from multimodal_loss.reporting.layouts.base import Condition, Shown
from multimodal_loss.results.collect import MASK, Run, aggregate, read_history, read_predictions
from multimodal_loss.results.metrics import ReliabilityBins, reliability_bins, true_class_histogram

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]  # epochs and losses
Arrays = Mapping[str, NDArray[Any]]  # by the keys of predictions.npz

FUSED = "fused"
BINS = 10
POINTS_PER_CURVE = 250
MOST_ACROSS, MOST_METHODS = 4, 12  # sources and methods that have panels of their own
SMALLEST_SHARE_OF_BIN = 0.001  # reliability of fewer samples than this is noise
FIGURE_4_CAPTION = (
    "Share of test samples by the probability that each modality alone gives to their true class; all replicates "
    "pooled, each modality sums to 100 %."
)
RELIABILITY_CAPTION = (
    "Accuracy against confidence of each modality's own prediction and of the fused one, 15 bins, all replicates "
    "pooled; of many methods the fused one alone. Bars are the share of samples in each bin. On the diagonal a model "
    "is as often right as it is sure; below it is over-confident."
)
TRAINING_CAPTION = (
    "Training loss, light lines for single replicates and a strong one for their mean. Methods minimise different "
    "losses: compare shapes and lengths, not heights."
)


def figure_4(condition: Condition, found: Sequence[tuple[Shown, Run]], number: int = 4) -> Iterator[Picture]:
    """The paper's Figure 4, or another of its kind: a panel for each method, runs that share a panel in one."""
    panels: dict[str, dict[str, Floats]] = {}
    said = []
    for shown, run in found:
        if predictions := read_predictions(run):
            shares = true_class_shares(predictions, _names(run, predictions))
            panels.setdefault(shown.panel or shown.label, {}).update(shares)
            own = {name: aggregate(run.values(f"test/modalities/{name}/ACC").values()).mean for name in shares}
            known = [f"{name} {100 * mean:.1f}" for name, mean in own.items() if mean is not None]
            said += [f"{shown.label}: {', '.join(known)}"] if known else []
    if panels:
        name = f"figure_{number}_{condition.key}"
        title = f"Figure {number}: probability of the true class, per modality"
        title += f" ({condition.title})" if condition.title else ""
        alt = f"{title}. Accuracy of these predictions in percent: {'; '.join(said)}." if said else title
        yield Picture(name, title, FIGURE_4_CAPTION, true_class_panels(panels), png=name, alt=alt)


def reliability(condition: Condition, found: Sequence[tuple[Shown, Run]]) -> Iterator[Picture]:
    """A panel for each modality's own prediction and one for the fused."""
    sources: dict[str, dict[Line, ReliabilityBins]] = {}
    for line, (_, run) in zip(_lines(found), found, strict=True):
        if predictions := read_predictions(run):
            for source, bins in _reliability(predictions, _names(run, predictions)).items():
                sources.setdefault(source, {})[line] = bins
    if FUSED in sources:  # last, as in the tables
        sources[FUSED] = sources.pop(FUSED)
    if sources:
        figure, alt = reliability_figure(sources), reliability_alt(sources)
        yield Picture(f"reliability_{condition.key}", "Reliability", RELIABILITY_CAPTION, figure, alt=alt)


def training_curves(condition: Condition, found: Sequence[tuple[Shown, Run]]) -> Iterator[Picture]:
    curves = {line: read_history(run) for line, (_, run) in zip(_lines(found), found, strict=True)}
    drawn = {line: replicates for line, replicates in curves.items() if replicates}
    if drawn:
        means = {line.label: _mean_curve(list(replicates.values())) for line, replicates in drawn.items()}
        ends = [f"{label} {losses[-1]:.3g} after {epochs[-1]:,.0f} epochs" for label, (epochs, losses) in means.items()]
        alt = f"Mean training loss at the end: {'; '.join(ends)}."
        figure = training_figure(drawn)
        yield Picture(f"training_{condition.key}", "Training curves", TRAINING_CAPTION, figure, alt=alt)


RUN_PICTURES: tuple[Callable[..., Iterator[Picture]], ...] = (figure_4, reliability, training_curves)


def true_class_shares(predictions: Arrays, modality_names: Sequence[str]) -> dict[str, Floats]:
    """How often the true class gets which probability, per modality: name -> (10,) shares that sum to 1.

    All replicates are pooled. `predictions` has the keys of predictions.npz: `{replicate}/target` (N,) and
    `{replicate}/modalities` (N, M, C), and `{replicate}/mask` (N, M) where samples may lack a modality: of these it is
    not; one that no sample has is left out.
    """
    if not predictions:
        raise ValueError("there are no predictions to draw")
    own = _own(predictions)
    if len(modality_names) != len(own):
        raise ValueError(f"{len(modality_names)} names for {len(own)} modalities")
    each = zip(modality_names, own, strict=True)
    return {name: true_class_histogram(y, p[:, None], BINS)[0] for name, (y, p) in each if len(y)}


def true_class_figure(predictions: Arrays, modality_names: Sequence[str]) -> Figure:
    """The paper's Figure 4 for one run."""
    return true_class_panels({"": true_class_shares(predictions, modality_names)})


def replicate_figures(predictions: Arrays, modality_names: Sequence[str]) -> dict[str, Figure]:
    """Figure 4 and reliability of one replicate."""
    line = Line("this replicate", MODALITY_COLOURS[0])
    bins = {source: {line: found} for source, found in _reliability(predictions, modality_names).items()}
    return {"figure_4": true_class_figure(predictions, modality_names), "reliability": reliability_figure(bins)}


@styled
def true_class_panels(panels: Mapping[str, Mapping[str, Floats]]) -> Figure:
    """The paper's Figure 4: one panel per method, from title to modality to shares."""
    modalities = list(dict.fromkeys(name for shares in panels.values() for name in shares))
    figure, axes = grid(panels, columns=4, width=2.6, height=2.1)
    if len(modalities) <= len(MODALITY_COLOURS):
        highest = max(float(np.max(values)) for shares in panels.values() for values in shares.values())
        for ax, shares in zip(axes, panels.values(), strict=True):
            _bars(ax, shares, modalities)
            ax.set_ylim(0, min(1.0, highest * 1.05))
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        shared_legend(figure, axes[:1], columns=len(modalities), loc="outside upper left")
    else:
        for ax, shares in zip(axes, panels.values(), strict=True):
            _heat_map(ax, shares)
    for ax in axes:
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    label_all(figure, x="probability of the true class", y="share of test samples")
    return figure


@styled
def training_figure(curves: Mapping[Line, Mapping[int, Curve]]) -> Figure:
    """Training loss against epoch, both logarithmic: a light line per replicate, a strong one for their mean.

    A replicate that has stopped counts with its last loss, so that the mean does not jump.
    """
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    ax = figure.add_subplot(xscale="log", xlabel="epoch", ylabel="training loss")
    for line, replicates in curves.items():
        for epochs, losses in replicates.values():
            kept = _thinned(epochs)
            ax.plot(epochs[kept], losses[kept], color=line.colour, ls=line.style, lw=0.6, alpha=0.35)
        epochs, losses = _mean_curve(list(replicates.values()))
        ax.plot(epochs, losses, color=line.colour, ls=line.style, label=line.label)
    if all(np.all(losses > 0) for replicates in curves.values() for _, losses in replicates.values()):
        ax.set_yscale("log")
    figure.legend(loc="outside right upper")
    return figure


@styled
def reliability_figure(sources: Mapping[str, Mapping[Line, ReliabilityBins]]) -> Figure:
    """Accuracy against confidence, a panel for each method and source: the sources across where these are few, else
    each method's last source alone, which is its fused prediction.

    Bars are the shares of samples in each bin; accuracy is left out where fewer than one in a thousand are.
    """
    methods = list(dict.fromkeys(line for of_source in sources.values() for line in of_source))
    if few := len(sources) <= MOST_ACROSS and len(methods) <= MOST_METHODS:
        panels = [(line, source) for line in methods for source in sources]
    else:
        panels = [(line, [one for one in sources if line in sources[one]][-1]) for line in methods]
    across = len(sources) if few and len(sources) > 1 else 0
    titles = [(source if i < across else "") if across else line.label for i, (line, source) in enumerate(panels)]
    figure, axes = grid(titles, columns=across or 5, width=1.85, height=1.75)
    for i, (ax, (line, source)) in enumerate(zip(axes, panels, strict=True)):
        if across and i % across == 0:
            ax.set_ylabel(fitted(line.label, 26), fontsize=7, color=INK)
        if line in sources[source]:
            _reliability_panel(ax, sources[source][line], line.colour)
        else:
            ax.set(xticks=[], yticks=[], frame_on=False)
    label_all(figure, x="confidence (probability of the predicted class)", y="accuracy, share of samples")
    return figure


def _reliability_panel(ax: Axes, bins: ReliabilityBins, colour: str) -> None:
    count = len(bins.samples)
    total = max(1, int(bins.samples.sum()))
    ax.bar((np.arange(count) + 0.5) / count, bins.samples / total, 0.9 / count, color="#d4d4d4")
    ax.plot([0, 1], [0, 1], color="#9a9a9a", lw=0.8, ls=(0, (4, 3)))
    enough = bins.samples >= max(1, SMALLEST_SHARE_OF_BIN * total)
    ax.plot(bins.confidence[enough], bins.accuracy[enough], color=colour, marker="o", markersize=2.8, linewidth=1.2)
    ax.text(0.03, 0.9, f"ECE {100 * _calibration_error(bins):.1f} %\n{total:,} samples", fontsize=6.5, va="top")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
    ax.grid(visible=False)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.5, 1], ["0", "0.5", "1"])


def _calibration_error(bins: ReliabilityBins) -> float:
    gaps = np.abs(bins.accuracy - bins.confidence)
    return float(np.nansum(np.where(bins.samples > 0, gaps, 0) * bins.samples) / max(1, bins.samples.sum()))


def reliability_alt(sources: Mapping[str, Mapping[Line, ReliabilityBins]]) -> str:
    said = [
        f"{line.label}, {source} {100 * _calibration_error(bins):.1f} %"
        for source, of_source in sources.items()
        for line, bins in of_source.items()
    ]
    return f"Expected calibration error of each: {'; '.join(said)}."


def _bars(ax: Axes, shares: Mapping[str, Floats], modalities: Sequence[str]) -> None:
    """All modalities side by side in each bin; a modality keeps its place and colour also where others are absent."""
    edges = np.linspace(0, 1, BINS + 1)[:-1]
    width = 0.9 / BINS / len(modalities)
    for i, name in enumerate(modalities):
        values = shares.get(name, np.zeros(BINS))
        ax.bar(edges + 0.05 / BINS + i * width, values, width, align="edge", color=MODALITY_COLOURS[i], label=name)
    ax.grid(axis="x", visible=False)


def _heat_map(ax: Axes, shares: Mapping[str, Floats]) -> None:
    """For more modalities than one can tell apart as bars: a line of the picture per modality."""
    extent = (0, 1, len(shares) - 0.5, -0.5)
    image = ax.imshow(np.stack(list(shares.values())), aspect="auto", cmap="cividis", extent=extent, vmin=0)
    ax.set_yticks(range(len(shares)), list(shares), fontsize=6)
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, format=PercentFormatter(1, decimals=0))


def _thinned(epochs: Floats) -> NDArray[np.int64]:
    """Indices of at most POINTS_PER_CURVE points, evenly spread on a logarithmic axis, both ends among them."""
    if len(epochs) <= POINTS_PER_CURVE:
        return np.arange(len(epochs))
    wanted = np.geomspace(max(epochs[0], 1), epochs[-1], POINTS_PER_CURVE)
    return np.unique(np.clip(np.searchsorted(epochs, wanted), 0, len(epochs) - 1))


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    longest = max((epochs for epochs, _ in curves), key=lambda epochs: epochs[-1])
    epochs = longest[_thinned(longest)]
    return epochs, np.mean([np.interp(epochs, x, y) for x, y in curves], axis=0)


def _lines(found: Sequence[tuple[Shown, Run]]) -> list[Line]:
    return lines([shown.label for shown, _ in found], [run for _, run in found])


def _names(run: Run, predictions: Arrays) -> list[str]:
    return run.modality_names(next(array.shape[1] for key, array in predictions.items() if key.endswith("/modalities")))


def _pooled(predictions: Arrays, part: str) -> NDArray[Any]:
    """One array of all replicates, in the order of their ids as text."""
    return np.concatenate([predictions[key] for key in sorted(predictions) if key.endswith(f"/{part}")])


def _reliability(predictions: Arrays, names: Sequence[str]) -> dict[str, ReliabilityBins]:
    """Per modality and fused (where there is more than one modality), all replicates pooled."""
    bins = {name: reliability_bins(*own) for name, own in zip(names, _own(predictions), strict=True) if len(own[0])}
    if len(names) > 1:
        bins[FUSED] = reliability_bins(_pooled(predictions, "target"), _pooled(predictions, FUSED))
    return bins


def _own(predictions: Arrays) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Of each modality the classes (n,) of the samples that have it, and its probabilities (n, C) of these."""
    target, modalities = _pooled(predictions, "target"), _pooled(predictions, "modalities")
    has_mask = any(key.endswith(f"/{MASK}") for key in predictions)
    mask = _pooled(predictions, MASK) if has_mask else np.ones(modalities.shape[:2], dtype=bool)
    return [(target[there], modalities[there, m]) for m, there in enumerate(mask.T)]
