"""Where trust goes: a modality's share where it was replaced by noise, or by that of another sample, and elsewhere."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.figures.base import (
    BLUE,
    INK,
    QUIET,
    VERMILION,
    Picture,
    grid,
    label_all,
    shared_legend,
    styled,
)
from multimodal_loss.results.collect import read_trust
from multimodal_loss.results.metrics import was_replaced

CAPTION = (
    "How much each method trusts a modality of a test sample, as a share of 1, where that modality was replaced and "
    "where it was not: median, quartiles (thick) and 5 to 95 % (thin), all splits pooled. The line is an equal say."
)
Trust = tuple[NDArray[Any], NDArray[Any]]  # shares (N, M), and which modality was replaced (N,)


def trust_picture(table: FilledTable, name: str) -> Iterator[Picture]:
    """A panel for each column whose runs have stored both, a place in it for each row."""
    panels: dict[str, dict[str, Trust]] = {}
    for column in table.layout.columns:
        for row in table.layout.rows:
            cell = table[row, column]
            if cell and cell.run and (found := read_trust(cell.run)):
                panels.setdefault(column.full_title, {})[row.full_title] = found
    if panels:
        yield Picture(
            f"{table.layout.name}_{name}",
            "Trust",
            CAPTION,
            trust_figure(panels),
            png=name,
            dpi=120,
            alt=_in_words(panels),
        )


def _in_words(panels: Mapping[str, Mapping[str, Trust]]) -> str:
    texts = []
    for title, panel in panels.items():
        for method, (shares, replaced) in panel.items():
            which = was_replaced(replaced, shares.shape[1])
            medians = [f"{np.median(part):.2f}" if part.size else "none" for part in (shares[which], shares[~which])]
            texts.append(f"{title}, {method} {' and '.join(medians)}")
    return f"Median trust where a modality was replaced, and where not: {'; '.join(texts)}."


@styled
def trust_figure(panels: Mapping[str, Mapping[str, Trust]]) -> Figure:
    """By the panel's title and the method's."""
    methods = list(dict.fromkeys(method for panel in panels.values() for method in panel))
    figure, axes = grid(panels, columns=4, width=2.7, height=0.5 + 0.36 * len(methods))
    for ax, panel in zip(axes, panels.values(), strict=True):
        ax.axvline(1 / next(iter(panel.values()))[0].shape[1], color=QUIET, lw=0.8, zorder=0)
        for place, method in enumerate(methods):
            if method in panel:
                shares, replaced = panel[method]
                which = was_replaced(replaced, shares.shape[1])
                _spread(ax, shares[which], -place - 0.16, VERMILION, "replaced")
                _spread(ax, shares[~which], -place + 0.16, BLUE, "not replaced")
        ax.set_yticks([-place for place in range(len(methods))], methods, color=INK)
        ax.set(xlim=(0, 1), ylim=(0.6 - len(methods), 0.6))
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.grid(axis="y", visible=False)
    shared_legend(figure, axes, columns=2)
    label_all(figure, x="share of trust")
    return figure


def _spread(ax: Axes, values: NDArray[Any], place: float, colour: str, label: str) -> None:
    if not len(values):
        return
    low, lower, median, upper, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    ax.plot([low, high], [place] * 2, color=colour, lw=0.9)
    ax.plot([lower, upper], [place] * 2, color=colour, lw=3.5, solid_capstyle="butt", label=label)
    ax.plot(median, place, "o", color="white", markersize=3.2, markeredgecolor=colour)
