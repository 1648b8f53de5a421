"""Classes that people know by name (activities, emotions): which each method and each input recognises, what they are
taken for, and when, where they follow each other in time (Tables 2 and 3 of the paper).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from multimodal_loss.reporting.figures.base import INK, MODALITY_COLOURS, Line, Picture, grid, label_all, lines, styled
from multimodal_loss.reporting.figures.runs import FUSED, reliability_alt, reliability_figure
from multimodal_loss.reporting.layouts.base import Condition, Shown
from multimodal_loss.results.collect import Run, is_number, read_predictions
from multimodal_loss.results.metrics import ReliabilityBins, class_f1, confusion_counts, reliability_bins

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NULL = "Null"  # the class of no activity
FEW_CLASSES = 8  # up to here panels stand side by side and numbers fit into a confusion matrix
MOST_LETTERS = 40  # of class names beside each other below a panel
MINUTES_PER_STRIP = 5
MOST_STRIPS = 4
NULL_COLOUR = "#ececec"
COLOUR_MAP = "Blues"

F1_CAPTION = (
    "F1 of the fused prediction for each class: mean over {replicates}, and their sample standard deviation as a line. "
    "Their plain mean over classes is FM."
)
INPUTS_CAPTION = (
    "F1 in percent of each {input}'s own prediction inside the fused model, mean over {replicates}; below, that of the "
    "fused prediction. A line says what a {input} can tell, a column which {inputs} carry {label}. Without a number: "
    "not among the test {samples}, nor ever predicted."
)
CONFUSION_CAPTION = (
    "Of the test {samples} of a row's class, the share taken for a column's class; all {replicates} pooled, each line "
    "sums to 100 %."
)
RELIABILITY_CAPTION = (
    "Accuracy against confidence of the fused prediction, 15 bins, all {replicates} pooled. Bars are the share "
    "of samples in each bin. On the diagonal a model is as often right as it is sure; below it is over-confident."
)


@dataclass(frozen=True)
class Words:
    """What a dataset calls its inputs (one and several), a class, its samples and its replicates."""

    input: str
    inputs: str
    label: str
    samples: str
    replicates: str

    def said(self, caption: str) -> str:
        return caption.format(**vars(self))


@dataclass(frozen=True)
class Recognition:
    """The test predictions of one run, counted: R replicates, M inputs, C classes.

    `predicted` (N,) are the fused predictions of the first replicate, whose id is `replicate`, for its windows in time
    order.
    """

    shown: Shown
    line: Line
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    fused: Integers  # (R, C, C) confusion counts
    own: Integers  # (R, M, C, C)
    reliability: ReliabilityBins
    replicate: str
    target: Integers  # (N,)
    predicted: Integers
    recordings: tuple[tuple[str, int], ...]  # name and number of test windows, in order
    seconds: float | None  # from one window to the next


def pictures(
    condition: Condition,
    found: Sequence[tuple[Shown, Run]],
    featured: Sequence[str],
    inputs: Sequence[str],
    words: Words,
    timeline: bool = True,
) -> Iterator[Picture]:
    """Everything that stored predictions show; runs without sound ones, or with other classes than the first, are left
    out.

    `featured` and `inputs` are the keys of the runs that have panels of their own, and of those whose inputs do;
    `timeline`: whether samples follow each other in time.
    """
    every = [one for shown, run in found if (one := recognition(shown, run)) is not None]
    every = [one for one in every if one.classes == every[0].classes]
    if not every:
        return

    def picture(name: str, title: str, caption: str, figure: Figure, saved: bool = True, alt: str = "") -> Picture:
        name = f"{name}_{condition.key}"
        return Picture(name, title, caption, figure, png=name if saved else "", alt=alt)

    yield picture("f1", "F1 of each class", words.said(F1_CAPTION), f1_figure(every), alt=_mean_f1_in_words(every))
    if late := _chosen(every, inputs):
        title = f"Which {words.input} carries which {words.label.partition(' ')[2]}"
        alt = " ".join(map(_inputs_in_words, late))
        yield picture(words.inputs, title, words.said(INPUTS_CAPTION), input_figure(late), alt=alt)
    few = _chosen(every, featured) or every[:1]
    caption, alt = words.said(CONFUSION_CAPTION), _confusions_in_words(few)
    yield picture("confusion", "Confusion matrices", caption, confusion_figure(few), alt=alt)
    if timeline:
        yield picture("timeline", *_timeline(few))
    bins = {FUSED: {one.line: one.reliability for one in every}}
    caption, alt = words.said(RELIABILITY_CAPTION), reliability_alt(bins)
    yield picture("reliability", "Reliability", caption, reliability_figure(bins), saved=False, alt=alt)


def _mean_f1_in_words(every: Sequence[Recognition]) -> str:
    means = [f"{one.shown.label} {100 * np.nanmean(mean_f1(one.fused)[0]):.1f}" for one in every]
    return f"F1 in percent, mean over classes: {', '.join(means)}."


def _inputs_in_words(one: Recognition) -> str:
    means = zip(one.inputs, np.nanmean(mean_f1(one.own)[0], axis=1), strict=True)
    said = [f"{name} {100 * mean:.1f}" for name, mean in means]
    return f"{one.shown.label}, F1 in percent of each input, mean over classes: {', '.join(said)}."


def _confusions_in_words(few: Sequence[Recognition]) -> str:
    """How much of each class is recognised."""
    texts = []
    for one in few:
        counts = one.fused.sum(axis=0)
        found = zip(one.classes, counts.diagonal(), counts.sum(axis=1), strict=True)
        texts.append(
            f"{one.shown.label}: {', '.join(f'{name} {100 * right / of:.0f}' for name, right, of in found if of)}"
        )
    return f"Of each class so many percent are recognised. {'; '.join(texts)}."


def recognition(shown: Shown, run: Run) -> Recognition | None:
    """None where no replicate has stored sound predictions."""
    stored = read_predictions(run)
    replicates = sorted({key.partition("/")[0] for key in stored}, key=int)
    if not replicates:
        return None
    targets, fused, own = ([stored[f"{r}/{part}"] for r in replicates] for part in ("target", "fused", "modalities"))
    inputs, classes = own[0].shape[1:]
    predicted = [probabilities.argmax(axis=1) for probabilities in fused]

    def counts(target: Integers, taken: Integers) -> Integers:
        return confusion_counts(target, taken, classes)

    return Recognition(
        shown,
        lines([shown.label], [run])[0],
        tuple(run.class_names(classes)),
        tuple(run.modality_names(inputs)),
        np.stack([counts(*pair) for pair in zip(targets, predicted, strict=True)]),
        np.stack([[counts(t, column) for column in p.argmax(axis=2).T] for t, p in zip(targets, own, strict=True)]),
        reliability_bins(np.concatenate(targets), np.concatenate(fused)),
        replicates[0],
        targets[0],
        predicted[0],
        _recordings(run, len(targets[0])),
        _seconds(run),
    )


def mean_f1(confusion: Integers) -> tuple[Floats, Floats]:
    """Mean and sample standard deviation over replicates of each class's F1, both (..., C), from counts (R, ..., C, C).

    A replicate in which a class does not occur does not count for it; NaN where too few are left.
    """
    f1 = class_f1(confusion)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of no or one replicate, which give the NaN
        return np.nanmean(f1, axis=0), np.nanstd(f1, axis=0, ddof=1)


def segments(classes: Sequence[int] | Integers) -> list[tuple[int, int, int]]:
    """The windows (N,) as runs of equal classes, in order: start, end (exclusive), class."""
    classes = np.asarray(classes)
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), len(classes)]
    return [(start, end, int(classes[start])) for start, end in pairwise(edges) if end > start]


def display_order(classes: Sequence[str]) -> list[int]:
    """Class indices as they are shown: Null, which is most of the day and no activity, last."""
    return sorted(range(len(classes)), key=lambda c: classes[c] == NULL)


@styled
def f1_figure(every: Sequence[Recognition]) -> Figure:
    """A line per class, a mark per method."""
    classes = every[0].classes
    order = display_order(classes)
    figure = Figure(figsize=(7.4, 0.9 + 0.34 * len(order)), layout="constrained")
    ax = figure.add_subplot(xlim=(-0.02, 1.02), ylim=(len(order) - 0.45, -0.55), xlabel="F1")
    offsets = np.linspace(-0.32, 0.32, len(every)) if len(every) > 1 else [0.0]
    for one, offset in zip(every, offsets, strict=True):
        mean, deviation = mean_f1(one.fused)
        drawn = ax.errorbar(mean[order], np.arange(len(order)) + offset, xerr=np.nan_to_num(deviation[order]))
        drawn.set_label(one.shown.label)
        marks, _, bars = drawn.lines
        marks.set(linestyle="none", marker="o" if len(one.inputs) > 1 else "s", markersize=4, color=one.line.colour)
        bars[0].set(color=one.line.colour, linewidth=0.9)
    ax.set_yticks(range(len(order)), [classes[c] for c in order], color=INK)
    ax.grid(axis="y", visible=False)
    for place in range(len(order) - 1):
        ax.axhline(place + 0.5, color=NULL_COLOUR, lw=0.7, zorder=0)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside upper left", ncols=4)
    return figure


@styled
def input_figure(late: Sequence[Recognition]) -> Figure:
    """Inputs downwards, classes across, a panel per method, the fused prediction as the last line."""
    order = display_order(late[0].classes)
    few = len(order) <= FEW_CLASSES
    height = 1.1 + 0.2 * max(len(one.inputs) for one in late)
    width = 3.6 if few else 1.6 + 0.33 * len(order)
    figure, axes = grid([one.shown.label for one in late], 2 if few else 1, width, height)
    for ax, one in zip(axes, late, strict=True):
        values = np.concatenate([mean_f1(one.own)[0], mean_f1(one.fused)[0][None]])[:, order]
        _shaded(ax, values, [*one.inputs, FUSED], [one.classes[c] for c in order], size=6)
        ax.axhline(len(one.inputs) - 0.5, color="white", lw=3)
    _colour_bar(figure, axes, "F1")
    return figure


@styled
def confusion_figure(featured: Sequence[Recognition]) -> Figure:
    """True classes downwards, predicted ones across, a panel per method."""
    order = display_order(featured[0].classes)
    names = [featured[0].classes[c] for c in order]
    few, side = len(order) <= FEW_CLASSES, max(2.4, 0.17 * len(order))
    titles = [one.shown.label for one in featured]
    figure, axes = grid(titles, len(titles), side + 0.5, side + (0.4 if few else 0.9))
    for ax, one in zip(axes, featured, strict=True):
        counts = one.fused.sum(axis=0)[np.ix_(order, order)]
        with np.errstate(invalid="ignore"):  # NaN in the row of a class that has no sample
            _shaded(ax, counts / counts.sum(axis=1, keepdims=True), names, names, size=7 if few else 0)
        ax.tick_params(labelleft=ax is axes[0])
    axes[0].set_ylabel("true class")
    label_all(figure, x="predicted class")
    _colour_bar(figure, axes, "share of the true class")
    return figure


@styled
def timeline_figure(
    lanes: Mapping[str, Integers], class_names: Sequence[str], seconds: float | None, per_strip: int
) -> Figure:
    """Lanes (title -> classes (N,) of successive windows) above each other, cut into strips of so many windows.

    `seconds` from one window to the next makes minutes of the axis; None leaves window numbers. Null is the background.
    """
    number = len(next(iter(lanes.values())))
    starts = range(0, number, per_strip)
    order, colours = display_order(class_names), _class_colours(class_names)
    scale, unit = (1.0, "window") if seconds is None else (seconds / 60, "minutes")
    height = len(starts) * (0.45 + 0.2 * len(lanes)) + 0.5 + 0.2 * int(np.ceil(len(order) / 6))
    figure = Figure(figsize=(8.6, height), layout="constrained")
    axes = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for ax, start in zip(axes, starts, strict=True):
        for place, classes in enumerate(lanes.values()):
            bars = segments(classes[start : start + per_strip])
            spans = [((start + first) * scale, (end - first) * scale) for first, end, _ in bars]
            ax.broken_barh(spans, (place - 0.42, 0.84), facecolors=[colours[c] for *_, c in bars], lw=0)
        ax.set(xlim=(start * scale, (start + min(per_strip, number)) * scale), ylim=(len(lanes) - 0.5, -0.5))
        ax.set_yticks(range(len(lanes)), list(lanes), color=INK)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
    axes[-1].set_xlabel(unit)
    patches = [Patch(color=colours[c], label=class_names[c]) for c in order]
    figure.legend(handles=patches, loc="outside lower left", ncols=6, fontsize=7)
    return figure


def _timeline(featured: Sequence[Recognition]) -> tuple[str, str, Figure]:
    """Title, caption and figure of the beginning of the longest recording."""
    first = featured[0]
    name, start, number = longest_recording(first)
    per_strip = 900 if first.seconds is None else max(1, round(MINUTES_PER_STRIP * 60 / first.seconds))
    shown = min(number, MOST_STRIPS * per_strip)
    alike = [one for one in featured if np.array_equal(one.target, first.target)]
    part = slice(start, start + shown)
    lanes = {"true": first.target[part], **{one.shown.label: one.predicted[part] for one in alike}}
    cut = "" if shown == number else f", its first {shown:,} windows of {number:,}"
    caption = (
        f"The class of each window of {name}{cut}: the true one on top, below the fused predictions of replicate "
        f"{first.replicate}. A window has the class of its last sample."
    )
    return f"Timeline of {name}", caption, timeline_figure(lanes, first.classes, first.seconds, per_strip)


def longest_recording(one: Recognition) -> tuple[str, int, int]:
    """Name, first window and number of windows of the longest test recording; all of them where none is known."""
    if not one.recordings:
        return "the test recordings", 0, len(one.target)
    starts = np.cumsum([0, *(number for _, number in one.recordings)]).tolist()
    longest = max(range(len(one.recordings)), key=lambda i: one.recordings[i][1])
    name, number = one.recordings[longest]
    return name, starts[longest], number


def _recordings(run: Run, windows: int) -> tuple[tuple[str, int], ...]:
    """Names and numbers of windows as the run states them; none unless they add up to the windows."""
    stated = run.get("dataset/recordings")
    pairs = stated if isinstance(stated, list) else []
    if not all(isinstance(one, list) and len(one) == 2 and type(one[1]) is int and one[1] >= 0 for one in pairs):
        return ()
    return tuple((str(name), number) for name, number in pairs) if sum(one[1] for one in pairs) == windows else ()


def _seconds(run: Run) -> float | None:
    """From one prediction to the next; None where the run does not say it."""
    seconds = run.get("dataset/seconds_per_prediction")
    return float(seconds) if is_number(seconds) and seconds > 0 else None


def _chosen(every: Sequence[Recognition], keys: Sequence[str]) -> list[Recognition]:
    """Those of the keys, in the keys' order."""
    return [one for key in keys for one in every if one.shown.key == key]


def _shaded(ax: Axes, values: Floats, rows: Sequence[str], columns: Sequence[str], size: float) -> None:
    """Values in 0..1 as shades, NaN grey, and as percent in letters of `size` points unless it is 0."""
    ax.set_facecolor(NULL_COLOUR)
    ax.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=COLOUR_MAP, vmin=0, vmax=1)
    ax.set_yticks(range(len(rows)), rows, fontsize=7)
    upright = len(columns) > FEW_CLASSES or len(columns) * max(map(len, columns)) > MOST_LETTERS
    ax.set_xticks(range(len(columns)), columns, fontsize=7, rotation=90 if upright else 0)
    ax.grid(visible=False)
    for (row, column), value in np.ndenumerate(values) if size else ():
        if not np.isnan(value):
            colour = "white" if value > 0.6 else INK
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=colour)


def _colour_bar(figure: Figure, axes: Sequence[Axes], label: str) -> None:
    form = PercentFormatter(1, decimals=0)
    figure.colorbar(axes[0].images[0], ax=list(axes), format=form, shrink=0.6, label=label)


def _class_colours(class_names: Sequence[str]) -> list[Any]:
    """One per class; neighbours are a strong and a pale shade of one hue where there are many."""
    few = len(class_names) <= len(MODALITY_COLOURS) + 1
    many = [to_hex(c) for i, c in enumerate(matplotlib.colormaps["tab20"].colors) if i not in (14, 15)]  # type: ignore[attr-defined]
    palette = iter(MODALITY_COLOURS if few else many * (len(class_names) // len(many) + 1))
    return [NULL_COLOUR if name == NULL else next(palette) for name in class_names]
