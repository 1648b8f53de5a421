"""What all pictures share: style, colours, saving.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; a method keeps its colour in all figures.
"""

import base64
import hashlib
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogFormatterSciNotation, StrMethodFormatter
from PIL import Image

from multimodal_loss.results.collect import Run

INK, QUIET, GRID = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
MODALITY_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
# For methods that have none of their own: unlike those of Okabe and Ito, which the paper's methods have.
PALETTE = ("#7b3294", "#a6611a", "#018571", "#c51b7d", "#4d9221", "#5e3c99", "#b2182b", "#35978f", "#80cdc1", "#404040")
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
    "text.parse_math": False,  # a name with two dollar signs is a name
    "svg.hashsalt": "multimodal-loss",  # the same figure is the same file
}
styled = matplotlib.rc_context(STYLE)  # what draws is decorated with it


@dataclass(frozen=True)
class Picture:
    """A figure with the file name that it is written under and what the page says about it.

    `png`: its name among the committed results; empty if it is not among them. `alt`: what it shows, in numbers, for
    whoever cannot see it.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    png: str = ""
    dpi: int = 100
    alt: str = ""


@dataclass(frozen=True)
class Plate:
    """A picture as a file, SVG or PNG, with what the page says about it. A committed PNG says so itself."""

    title: str
    caption: str
    alt: str
    content: bytes

    @property
    def said(self) -> dict[str, str]:
        return {"Title": self.title, "Description": self.caption, "Comment": self.alt}

    @property
    def address(self) -> str:
        media = "png" if self.content.startswith(b"\x89PNG") else "svg+xml"
        return f"data:image/{media};base64,{base64.b64encode(self.content).decode()}"


def stored_plate(path: Path) -> Plate:
    """Raises OSError or ValueError for what is no PNG."""
    with Image.open(path) as image:
        said = dict(getattr(image, "text", {}))
    title = said.get("Title") or path.stem.replace("_", " ")
    return Plate(title, said.get("Description", ""), said.get("Comment", ""), path.read_bytes())


@dataclass(frozen=True)
class Line:
    """What stands for one run in a figure with several."""

    label: str
    colour: str
    style: str = "-"


def lines(labels: Sequence[str], runs: Sequence[Run]) -> list[Line]:
    """Runs of the same colour are told apart by their dashes."""
    colours = [method_colour(run) for run in runs]
    styles = [LINE_STYLES[colours[:i].count(colour) % len(LINE_STYLES)] for i, colour in enumerate(colours)]
    return [Line(fitted(label, 44), *one) for label, *one in zip(labels, colours, styles, strict=True)]


def method_colour(run: Run) -> str:
    """The colour that the method's own file gives it, else one of the palette that follows from its name."""
    stated = run.get("config/facts/method/colour")
    if isinstance(stated, str) and is_color_like(stated):
        return stated
    name = str(run.get("config/facts/method/name"))
    return PALETTE[int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(PALETTE)]


@styled
def save(figure: Figure, format: str, dpi: int = 150, said: Mapping[str, str] | None = None) -> bytes:
    """The figure as svg or png, without the date, so that equal figures are equal bytes. `said` goes into a png."""
    for axis in (one for ax in figure.axes for one in (ax.xaxis, ax.yaxis) if one.get_scale() == "log"):
        if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):  # whose powers of ten are formulas
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(LogFormatter())
    file = io.BytesIO()
    figure.savefig(file, format=format, dpi=dpi, metadata={"Date": None} if format == "svg" else dict(said or {}))
    return file.getvalue()


def watermark(figure: Figure, text: str) -> None:
    """Pale letters across the whole figure, for what must be said wherever the picture goes."""
    size = 100 * figure.get_figwidth() / len(text)
    figure.text(0.5, 0.5, text, size=size, color=VERMILION, alpha=0.3, rotation=12, ha="center", va="center")


def grid(titles: Iterable[str], columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A panel for each title, `columns` to a line."""
    titles = list(titles)
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    titles = [fitted(title, round(11 * width)) for title in titles]
    height += 0.16 * max(title.count("\n") for title in titles)
    figure = Figure(figsize=(max(width * columns, 3.6), height * rows + 0.7), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    return figure, axes


def fitted(text: str, letters: int) -> str:
    """In lines of at most so many letters, where it has places to be broken."""
    return "\n".join(textwrap.wrap(text, letters, break_long_words=False)) or text


def label_all(figure: Figure, x: str = "", y: str = "") -> None:
    """One label for the horizontal axes of all panels, and one for the vertical ones."""
    for label, place in ((x, figure.supxlabel), (y, figure.supylabel)):
        if label:
            place(label, fontsize=9, color=QUIET)


def shared_legend(figure: Figure, axes: Iterable[Axes], columns: int, loc: Any = "outside upper right") -> None:
    """One legend for all panels, each label once, with the handle of its first."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc=loc, ncols=columns)
