"""A table as a picture: the overview, and curves against the number that tells its rows apart."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable
from multimodal_loss.reporting.analysis.verdict import alt_of_table
from multimodal_loss.reporting.figures.base import BLUE, INK, SKY, Picture, grid, label_all, shared_legend, styled
from multimodal_loss.reporting.layouts.base import Column

PAPER_GREY = "#8a8a8a"
SERIES_CAPTION = "Mean over replicates, the sample standard deviation shaded, every replicate a light dot."


def overview(table: FilledTable) -> Iterator[Picture]:
    """The table as one picture, beside the paper's numbers where it is compared with them."""
    if table.has_values:
        caption = "The table as a picture: ours with every replicate as a light dot"
        caption += ", beside the paper's mean and standard deviation." if table.paper_label == "paper" else "."
        figure = comparison_figure(table)
        yield Picture(
            f"{table.layout.name}_overview",
            "Overview",
            caption,
            figure,
            png="overview",
            dpi=120,
            alt=alt_of_table(table),
        )


def against_rows(table: FilledTable, title: str, caption: str, png: str) -> Iterator[Picture]:
    """Each column against the number that ends the row's key."""
    if table.has_values:
        yield Picture(
            table.layout.name, title, caption, series_figure(table), png=png, dpi=120, alt=alt_of_table(table)
        )


@dataclass(frozen=True)
class Sweep:
    """Rows of a table that differ in one number alone: its name, what they share, and each value with the row's key."""

    number: str
    label: str
    rows: tuple[tuple[float, str], ...]


def swept_numbers(table: FilledTable, sweeps: Sequence[Sweep]) -> Iterator[Picture]:
    """The first column against each swept number."""
    column = table.layout.columns[0]
    found = [(sweep, [(value, table.cells.get((row, column.key))) for value, row in sweep.rows]) for sweep in sweeps]
    if found:
        figure = sweep_figure(found, column)
        said = [
            f"{sweep.label}, {sweep.number}: "
            + ", ".join(
                f"{value:g} {cell.mean:.{column.decimals}f}" for value, cell in cells if cell and cell.mean is not None
            )
            for sweep, cells in found
        ]
        caption = f"Runs that differ in one number alone: {column.title} against it. {SERIES_CAPTION}"
        alt = f"{column.title}. {'; '.join(said)}."
        yield Picture(f"{table.layout.name}_sweeps", "Sweeps", caption, figure, alt=alt)


@styled
def sweep_figure(sweeps: Sequence[tuple[Sweep, Sequence[tuple[float, FilledCell | None]]]], column: Column) -> Figure:
    """A panel for each sweep."""
    figure, axes = grid([sweep.label for sweep, _ in sweeps], columns=2, width=3.9, height=2.6)
    for ax, (sweep, cells) in zip(axes, sweeps, strict=True):
        ax.title.set_fontsize(7)
        ax.set(xlabel=sweep.number, ylabel=f"{column.title}, {column.unit}")
        _series(ax, cells)
    shared_legend(figure, axes, columns=3)
    return figure


@styled
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
    lines = math.ceil(len(panels) / per_line)
    figure = Figure(figsize=(1.4 + 2.6 * per_line, 1.0 + 0.3 * len(names) * lines), layout="constrained")
    axes = figure.subplots(lines, per_line, sharey=True, sharex=shared, squeeze=False).ravel()
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    for ax, (title, cells) in zip(axes, panels.items(), strict=False):
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
        for place, name in enumerate(names):
            _compare(ax, cells[name], place)
    axes[0].set_yticks(range(len(names)), names, color=INK)
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    shared_legend(figure, axes, columns=2)
    label_all(figure, x=f"{' or '.join(units)}, mean \N{PLUS-MINUS SIGN} sample standard deviation")
    return figure


@styled
def series_figure(table: FilledTable) -> Figure:
    """Each column against the number that ends the row's key, on a logarithmic axis.

    A line through the means, the sample standard deviation shaded, each replicate a light dot; the paper's number where
    there is one.
    """
    columns = table.layout.columns
    figure, axes = grid([column.full_title for column in columns], columns=2, width=3.6, height=2.5)
    for ax, column in zip(axes, columns, strict=True):
        ax.set_ylabel(column.unit)
        _series(ax, [(int(row.key.partition("=")[2]), table[row, column]) for row in table.layout.rows])
    shared_legend(figure, axes, columns=3)
    label_all(figure, x=table.layout.corner.lower())
    return figure


def _series(ax: Axes, cells: Sequence[tuple[float, FilledCell | None]]) -> None:
    """On a logarithmic axis where the numbers are a power of ten apart, or more."""
    found = [(k, cell, cell.mean) for k, cell in cells if cell and cell.mean is not None]
    if found:
        places, means = np.array([k for k, *_ in found]), np.array([mean for *_, mean in found])
        spread = np.array([cell.sd or 0.0 for _, cell, _ in found])
        ax.fill_between(places, means - spread, means + spread, color=BLUE, alpha=0.18, lw=0)
        ax.plot(places, means, "o-", color=BLUE, markersize=4, label="ours, mean \N{PLUS-MINUS SIGN} sd")
    for k, filled, _ in found:
        values = list(filled.values.values())
        ax.plot([k] * len(values), values, "o", color=SKY, alpha=0.7, markersize=2.5, mew=0, label="each replicate")
    for k, cell in cells:
        if cell and cell.paper and cell.target is not None:
            ax.errorbar(k, cell.target, cell.paper.sd, fmt="s", color=PAPER_GREY, markersize=4, label="paper")
    numbers = [k for k, _ in cells]
    if min(numbers) > 0 and max(numbers) >= 10 * min(numbers):
        ax.set_xscale("log")
    ax.set_xticks(numbers, [f"{k:g}" for k in numbers])
    ax.minorticks_off()


def _compare(ax: Axes, cell: FilledCell | None, place: float) -> None:
    if cell and cell.paper and cell.target is not None:
        _dot(ax, cell.target, cell.paper.sd, place + 0.17, "s", PAPER_GREY, "paper")
    if cell and cell.mean is not None:
        found = list(cell.values.values())
        ax.plot(found, [place - 0.17] * len(found), "o", color=SKY, alpha=0.7, markersize=3, mew=0)
        _dot(ax, cell.mean, cell.sd, place - 0.17, "o", BLUE, "ours (light: each replicate)")


def _dot(ax: Axes, mean: float, sd: float | None, place: float, marker: str, colour: str, label: str) -> None:
    ax.errorbar(mean, place, xerr=sd, fmt=marker, color=colour, markersize=4, elinewidth=1.1, capsize=0, label=label)
