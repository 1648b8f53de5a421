"""Methods over several datasets: average ranks, and which of them differ by more than chance.

Friedman's test asks whether the ranks of k methods on N datasets are all alike; where they are not, two methods differ
whose average ranks are further apart than Nemenyi's critical difference (Demsar, JMLR 7, 2006).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from multimodal_loss.reporting.analysis.best import direction
from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable
from multimodal_loss.reporting.analysis.significance import LEVEL
from multimodal_loss.reporting.layouts.base import Column, Row


@dataclass(frozen=True)
class Ranks:
    """Average ranks of the rows (1 is best) over the columns that were ranked, Friedman's p, and the critical
    difference of two average ranks.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    average: tuple[float, ...]
    p: float
    critical_difference: float


def rank(table: FilledTable, keys: Sequence[str]) -> Ranks | None:
    """The rows with these keys over the table's drawn columns, of which more, or of all less, is better.

    A row counts where it is complete in every column that counts: of all choices of columns, those in the order of
    their complete cells, the one that leaves the most cells. None with fewer than three rows or two columns.
    """
    rows = [row for row in table.layout.rows if row.key in keys]

    def complete(row: Row, column: Column) -> bool:
        cell = table[row, column]
        return cell is not None and cell.state == "complete"

    averages = {cell.column for cell in table.layout.cells if cell.over}  # of the columns that are ranked
    drawn = [column for column in table.layout.columns if column.drawn and column.key not in averages]
    columns = sorted(drawn, key=lambda column: -sum(complete(row, column) for row in rows))
    choices = []
    for count in range(2, len(columns) + 1):
        kept = [row for row in rows if all(complete(row, column) for column in columns[:count])]
        choices.append((len(kept) * count, kept, columns[:count]))
    choices = [choice for choice in choices if len(choice[1]) > 2]
    if not choices:
        return None
    _, kept, chosen = max(choices, key=lambda choice: choice[0])
    means = np.array([[_score(table[row, column]) for column in chosen] for row in kept])
    ranks = np.stack([rankdata(-column) for column in means.T], axis=1)
    k, n = ranks.shape
    p = float(friedmanchisquare(*ranks).pvalue) if (ranks != ranks[0, 0]).any() else 1.0
    critical = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    average = tuple(float(value) for value in ranks.mean(axis=1))
    in_order = tuple(column for column in table.layout.columns if column in chosen)
    return Ranks(tuple(kept), in_order, average, p, critical)


def rank_alike(table: FilledTable) -> Ranks | None:
    """All methods over the columns of a table whose columns are conditions: they show the same metric."""
    cells = [cell for column in table.layout.columns if column.drawn for cell in _of_column(table, column)]
    alike = len({cell.cell.metric for cell in cells}) == 1 and direction(cells[0])
    return rank(table, [row.key for row in table.layout.rows]) if alike and table.layout.rows_compete else None


def _of_column(table: FilledTable, column: Column) -> list[FilledCell]:
    return [cell for row in table.layout.rows if (cell := table[row, column])]


def _score(cell: FilledCell | None) -> float:
    """The mean, with its sign turned where less is better."""
    return math.nan if cell is None or cell.mean is None else (direction(cell) or 1) * cell.mean


def sentence(found: Ranks | None, of: str) -> str:
    """What the ranks say in words; empty where there are none."""
    if found is None:
        return ""
    best = sorted(zip(found.average, (row.full_title for row in found.rows), strict=True))
    first, worst = best[0], best[-1]
    pairs = sum(b - a > found.critical_difference for i, (a, _) in enumerate(best) for b, _ in best[i + 1 :])
    every = len(best) * (len(best) - 1) // 2
    text = (
        f"{of}, {len(best)} methods on {len(found.columns)} datasets: Friedman's p is {found.p:.2g}; best average rank "
        f"{first[0]:.1f} ({first[1]}), worst {worst[0]:.1f} ({worst[1]}); "
    )
    if found.p >= LEVEL:
        return f"{text}no difference of ranks is more than chance."
    critical = f"Nemenyi's critical difference of {found.critical_difference:.1f}"
    return f"{text}{pairs} of {every} pairs differ by more than {critical}."


def behind(table: FilledTable, reference: str, keys: Sequence[str], points: float = 1.0) -> str:
    """How many of the rows are more than so many points below the reference and, in a line for each column, which;
    empty without it.
    """
    titles = {row.key: row.full_title for row in table.layout.rows}
    counted, total, lines = 0, 0, []
    for column in table.layout.columns:
        wanted = table.cells.get((reference, column.key))
        if wanted is None or wanted.mean is None:
            continue
        cells = [(titles[key], table.cells.get((key, column.key))) for key in keys]
        gaps = [
            (cell.mean - wanted.mean, title)
            for title, cell in cells
            if cell is not None and cell.mean is not None and cell.values.keys() == wanted.values.keys()
        ]
        named = [f"{title} ({gap:+.1f})" for gap, title in sorted(gaps) if gap < -points]
        counted, total = counted + len(gaps), total + len(named)
        if named:
            lines.append(f"{len(named)} of {len(gaps)} on {column.title}: {'; '.join(named)}.")
    if not counted:
        return ""
    start = f"{total} of {counted} networks are more than {points:g} point below {titles[reference]}"
    return "\n".join([f"{start}{':' if lines else '.'}", *lines])
