"""Average ranks on a line, with bars that join what is not told apart (Demsar, JMLR 7, 2006)."""

from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.figure import Figure

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.analysis.ranks import Ranks, rank
from multimodal_loss.reporting.figures.base import BLUE, INK, QUIET, STYLE, VERMILION, Picture


def critical_difference(table: FilledTable, keys: Sequence[str], name: str, title: str) -> Iterator[Picture]:
    """The rows with these keys; nothing where too few of them are complete."""
    if found := rank(table, keys):
        caption = (
            f"Average ranks over {len(found.columns)} datasets, 1 is best. Bars join methods whose ranks differ by "
            f"less than Nemenyi's critical difference ({found.critical_difference:.1f}); Friedman's p is {found.p:.2g}."
        )
        figure = critical_difference_figure(found)
        order = sorted(zip(found.average, (row.full_title for row in found.rows), strict=True))
        alt = f"Average ranks: {', '.join(f'{title} {rank:.1f}' for rank, title in order)}."
        yield Picture(f"{table.layout.name}_{name}", title, caption, figure, png=name, dpi=120, alt=alt)


def critical_difference_figure(found: Ranks) -> Figure:
    """Methods from best to worst, downwards, each a dot at its average rank with its name beside it."""
    order = sorted(range(len(found.rows)), key=lambda i: found.average[i])
    ranks = [found.average[i] for i in order]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.2 + 0.26 * len(order)), layout="constrained")
        ax = figure.add_subplot()
        for place, i in enumerate(order):
            ax.plot(found.average[i], -place, "o", color=BLUE, markersize=5)
        ax.set_yticks([-place for place in range(len(order))], [found.rows[i].full_title for i in order], color=INK)
        for start, end in groups(ranks, found.critical_difference):
            ax.plot([ranks[start]] * 2, [-start, -end], color=VERMILION, lw=0.8, alpha=0.5)
            ax.plot([ranks[start], ranks[end]], [-end - 0.3] * 2, color=VERMILION, lw=2, alpha=0.6)
        ax.set_xlabel("average rank", color=QUIET)
        ax.margins(y=0.05)
    return figure


def groups(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last place of each longest run of ascending ranks within the critical difference; none of one alone."""
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = max(i for i in range(start, len(ranks)) if ranks[i] - ranks[start] <= critical)
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found
