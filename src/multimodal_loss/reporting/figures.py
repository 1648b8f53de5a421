"""Figures, as matplotlib objects without pyplot's global state; every function returns a `Figure` and saves nothing.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; a method keeps its colour in all figures.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from multimodal_loss.reporting.tables import FilledCell, FilledTable
from multimodal_loss.results.metrics import ReliabilityBins, true_class_histogram

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]  # epochs and losses

INK, QUIET, GRID = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
MODALITY_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
METHOD_COLOURS = {
    "unimodal": "#8a8a8a",
    "early": "#222222",
    "intermediate": "#8a8a8a",
    "sum_ce": BLUE,
    "weighted_sum_ce": "#7f6000",
    "nn_ce": GREEN,
    "mulmix": ORANGE,
    "soft_triple": PURPLE,
    "proxy_anchor": SKY,
    "multimodal": VERMILION,
    "multitask": "#222222",
    "logistic": "#b8a000",
}
LINE_STYLES = ("-", "--", ":", "-.")
STYLE: Any = {  # matplotlib types its keys one by one
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#b5b5b5",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "svg.hashsalt": "multimodal-loss",  # the same figure is the same file
}
BINS = 10
POINTS_PER_CURVE = 250
SMALLEST_SHARE_OF_BIN = 0.001  # reliability of fewer samples than this is noise


@dataclass(frozen=True)
class Picture:
    """A figure with the file name that it is written under and what the page says about it.

    `png`: its name among the committed results; empty if it is not among them.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    png: str = ""
    dpi: int = 100


@dataclass(frozen=True)
class Line:
    """What stands for one run in a figure with several."""

    method: str
    label: str
    style: str = "-"

    @property
    def colour(self) -> str:
        return METHOD_COLOURS[self.method]


def save(figure: Figure, format: str, dpi: int = 150) -> bytes:
    """The figure as svg or png, without the date, so that equal figures are equal bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=format, dpi=dpi, metadata={"Date": None} if format == "svg" else None)
    return file.getvalue()


def watermark(figure: Figure, text: str) -> None:
    """Pale letters across the whole figure, for what must be said wherever the picture goes."""
    size = 100 * figure.get_figwidth() / len(text)
    figure.text(0.5, 0.5, text, size=size, color=VERMILION, alpha=0.3, rotation=12, ha="center", va="center")


def true_class_shares(predictions: Mapping[str, NDArray[Any]], modality_names: Sequence[str]) -> dict[str, Floats]:
    """How often the true class gets which probability, per modality: name -> (10,) shares that sum to 1.

    All replicates are pooled. `predictions` has the keys of predictions.npz: `{replicate}/target` (N,) and
    `{replicate}/modalities` (N, M, C).
    """
    replicates = sorted({key.partition("/")[0] for key in predictions})
    if not replicates:
        raise ValueError("there are no predictions to draw")
    target = np.concatenate([predictions[f"{r}/target"] for r in replicates])
    modalities = np.concatenate([predictions[f"{r}/modalities"] for r in replicates])
    if len(modality_names) != modalities.shape[1]:
        raise ValueError(f"{len(modality_names)} names for {modalities.shape[1]} modalities")
    return dict(zip(modality_names, true_class_histogram(target, modalities, BINS), strict=True))


def true_class_figure(predictions: Mapping[str, NDArray[Any]], modality_names: Sequence[str]) -> Figure:
    """The paper's Figure 4 for one run."""
    return true_class_panels({"": true_class_shares(predictions, modality_names)})


def true_class_panels(panels: Mapping[str, Mapping[str, Floats]]) -> Figure:
    """The paper's Figure 4: one panel per method, from title to modality to shares."""
    modalities = list(dict.fromkeys(name for shares in panels.values() for name in shares))
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels), columns=4, width=2.6, height=2.1)
        for ax, (title, shares) in zip(axes, panels.items(), strict=True):
            ax.set_title(title)
            if len(modalities) <= len(MODALITY_COLOURS):
                _bars(ax, shares, modalities)
            else:
                _heat_map(ax, shares)
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        highest = max(float(np.max(values)) for shares in panels.values() for values in shares.values())
        if len(modalities) <= len(MODALITY_COLOURS):
            for ax in axes:
                ax.set_ylim(0, min(1.0, highest * 1.05))
                ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=len(modalities))
        figure.supxlabel("probability of the true class", fontsize=9, color=QUIET)
        figure.supylabel("share of test samples", fontsize=9, color=QUIET)
    return figure


def training_figure(curves: Mapping[Line, Mapping[int, Curve]]) -> Figure:
    """Training loss against epoch, both logarithmic: a light line per replicate, a strong one for their mean.

    A replicate that has stopped counts with its last loss, so that the mean does not jump.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        ax = figure.add_subplot()
        for line, replicates in curves.items():
            for epochs, losses in replicates.values():
                grid = _thinned(epochs)
                ax.plot(epochs[grid], losses[grid], color=line.colour, ls=line.style, lw=0.6, alpha=0.35)
            epochs, losses = _mean_curve(list(replicates.values()))
            ax.plot(epochs, losses, color=line.colour, ls=line.style, label=line.label)
        ax.set_xscale("log")
        if all(np.all(losses > 0) for replicates in curves.values() for _, losses in replicates.values()):
            ax.set_yscale("log")
        ax.set_xlabel("epoch")
        ax.set_ylabel("training loss")
        figure.legend(loc="outside right upper")
    return figure


def reliability_figure(sources: Mapping[str, Mapping[Line, ReliabilityBins]]) -> Figure:
    """Accuracy against confidence, a panel per modality and one for the fused prediction, a line per method.

    Below the diagonal a model is over-confident. Bins with fewer than one in a thousand of the samples are left out.
    """
    with matplotlib.rc_context(STYLE):
        single = len(sources) == 1  # the legend stands beside it, as above it there is not enough room
        figure, axes = grid(len(sources), columns=4, width=4.8 if single else 2.6, height=2.5)
        handles: dict[Line, Any] = {}
        for ax, (title, lines) in zip(axes, sources.items(), strict=True):
            ax.set_title(title)
            ax.plot([0, 1], [0, 1], color="#b5b5b5", lw=1, ls=(0, (4, 3)))
            for line, bins in lines.items():
                enough = bins.samples >= max(1, SMALLEST_SHARE_OF_BIN * bins.samples.sum())
                drawn = ax.plot(bins.confidence[enough], bins.accuracy[enough], color=line.colour, ls=line.style)
                drawn[0].set(marker="o", markersize=2.8, linewidth=1.2)
                handles.setdefault(line, drawn[0])
            ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        order = sorted(handles, key=lambda line: (list(METHOD_COLOURS).index(line.method), line.label))
        drawn, labels = [handles[line] for line in order], [line.label for line in order]
        if single:
            figure.legend(drawn, labels, loc="outside right upper")
        else:
            figure.legend(drawn, labels, loc="outside upper left", ncols=5)
        figure.supxlabel("confidence (probability of the predicted class)", fontsize=9, color=QUIET)
        figure.supylabel("accuracy", fontsize=9, color=QUIET)
    return figure


def comparison_figure(table: FilledTable) -> Figure:
    """A table as a picture: ours (mean +- sd, each replicate a light dot) beside the paper's.

    The table's shorter side makes the panels. Panels share the horizontal axis where all columns have one unit and no
    panel stands for a metric of its own.
    """
    rows, columns = table.layout.rows, [column for column in table.layout.columns if column.drawn]
    if len(rows) <= len(columns):
        panels = {row.full_title: {column.full_title: table[row, column] for column in columns} for row in rows}
    else:
        panels = {column.full_title: {row.full_title: table[row, column] for row in rows} for column in columns}
    names = [*reversed(next(iter(panels.values())))]
    units = list(dict.fromkeys(column.unit for column in columns))
    metrics = {cell.cell.metric.rpartition("/")[2] for cells in panels.values() for cell in cells.values() if cell}
    shared = len(units) == 1 and (len(rows) <= len(columns) or len(metrics) == 1)
    per_line = len(panels) if len(panels) <= 4 else 3
    with matplotlib.rc_context(STYLE):
        lines = math.ceil(len(panels) / per_line)
        size = 1.4 + 2.6 * per_line, 1.0 + 0.3 * len(names) * lines
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(lines, per_line, sharey=True, sharex=shared, squeeze=False)
        axes = [ax for line in places for ax in line]
        for unused in axes[len(panels) :]:
            unused.set_visible(False)
        for ax, (title, cells) in zip(axes, panels.items(), strict=False):
            ax.set_title(title)
            ax.grid(axis="y", visible=False)
            for place, name in enumerate(names):
                _compare(ax, cells[name], place)
        axes[0].set_yticks(range(len(names)), names, color=INK)
        axes[0].set_ylim(-0.6, len(names) - 0.4)
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)
        label = f"{' or '.join(units)}, mean \N{PLUS-MINUS SIGN} sample standard deviation"
        figure.supxlabel(label, fontsize=9, color=QUIET)
    return figure


def proxy_number_figure(table: FilledTable) -> Figure:
    """The paper's Figure 5: each column against the number of proxies, which ends the row's key.

    A line through the means, the sample standard deviation shaded, each replicate a light dot; the paper's number where
    there is one.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(table.layout.columns), columns=2, width=3.6, height=2.5)
        for ax, column in zip(axes, table.layout.columns, strict=True):
            ax.set_title(column.full_title)
            ax.set_ylabel(column.unit)
            _against_proxies(ax, [(int(row.key.partition("=")[2]), table[row, column]) for row in table.layout.rows])
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=3)
        figure.supxlabel("proxies per class", fontsize=9, color=QUIET)
    return figure


def _against_proxies(ax: Axes, cells: Sequence[tuple[int, FilledCell | None]]) -> None:
    found = [(k, cell, cell.mean) for k, cell in cells if cell and cell.mean is not None]
    if found:
        numbers, means = np.array([k for k, *_ in found]), np.array([mean for *_, mean in found])
        spread = np.array([cell.sd or 0.0 for _, cell, _ in found])
        ax.fill_between(numbers, means - spread, means + spread, color=BLUE, alpha=0.18, lw=0)
        ax.plot(numbers, means, "o-", color=BLUE, markersize=4, label="ours, mean \N{PLUS-MINUS SIGN} sd")
    for k, filled, _ in found:
        values = [value for value in filled.values if value is not None]
        ax.plot([k] * len(values), values, "o", color=SKY, alpha=0.7, markersize=2.5, mew=0, label="each replicate")
    for k, cell in cells:
        if cell and cell.paper and cell.paper.mean is not None:
            ax.errorbar(k, cell.paper.mean, cell.paper.sd, fmt="s", color="#8a8a8a", markersize=4, label="paper")
    ax.set_xscale("log")
    ax.set_xticks([k for k, _ in cells], [str(k) for k, _ in cells])
    ax.minorticks_off()


def line_style(position: int) -> str:
    """Tells runs apart that share a colour, such as the unimodal ones."""
    return LINE_STYLES[position % len(LINE_STYLES)]


def grid(panels: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """As many axes as panels, `columns` to a line."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(max(width * columns, 3.6), height * rows + 0.7), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


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


def _compare(ax: Axes, cell: FilledCell | None, place: float) -> None:
    if cell and cell.paper and cell.paper.mean is not None:
        _dot(ax, cell.paper.mean, cell.paper.sd, place + 0.17, "s", "#8a8a8a", "paper")
    if cell and cell.mean is not None:
        found = [value for value in cell.values if value is not None]
        ax.plot(found, [place - 0.17] * len(found), "o", color=SKY, alpha=0.7, markersize=3, mew=0)
        _dot(ax, cell.mean, cell.sd, place - 0.17, "o", BLUE, "ours (light: each replicate)")


def _dot(ax: Axes, mean: float, sd: float | None, place: float, marker: str, colour: str, label: str) -> None:
    ax.errorbar(mean, place, xerr=sd, fmt=marker, color=colour, markersize=4, elinewidth=1.1, capsize=0, label=label)


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
