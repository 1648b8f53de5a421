"""Which rows of a column have the best mean, and which are not told apart from it.

Folds are compared in pairs by the corrected resampled t-test, draws of the data by the paired t-test (`significance`);
seeds are trainings of their own: Welch's t-test. Holm's correction is for all comparisons with the best of one column.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from scipy.stats import ttest_ind_from_stats

from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable
from multimodal_loss.reporting.analysis.significance import (
    LEVEL,
    corrected_t_test,
    holm,
    paired_ratio,
    shared_replicates,
)

Mark = Literal["best", "tied"]

HIGHER_IS_BETTER = ("ACC", "FM", "FW", "MCC", "AUC", "AP")
LOWER_IS_BETTER = ("NLL", "Brier", "ECE")


def direction(cell: FilledCell | None) -> int:
    """1 where more of the cell's metric is better, -1 where less is, 0 where neither, as of a time."""
    metric = cell.cell.metric.rpartition("/")[2].partition("_")[0] if cell and not cell.cell.minus else ""
    return (metric in HIGHER_IS_BETTER) - (metric in LOWER_IS_BETTER)


def marks(table: FilledTable) -> dict[tuple[str, str], Mark]:
    """The best complete cell of each column, or all of equal means, and those that are tied with it, by row and column.

    None in a table whose rows do not compete, nor in a column with one complete cell, or of which neither more nor less
    is better.
    """
    found: dict[tuple[str, str], Mark] = {}
    if not table.layout.rows_compete:
        return found
    for column in table.layout.columns:
        cells = [cell for row in table.layout.rows if (cell := table[row, column]) and cell.state == "complete"]
        ranked = [(direction(cell) * cell.mean, cell) for cell in cells if direction(cell) and cell.mean is not None]
        if len(ranked) < 2:
            continue
        highest = max(score for score, _ in ranked)
        best = next(cell for score, cell in ranked if score == highest)
        others = [cell for score, cell in ranked if score != highest]
        found |= {(cell.cell.row, column.key): "best" for score, cell in ranked if score == highest}
        for cell, p in zip(others, _holm([_p(best, cell) for cell in others]), strict=True):
            if p is not None and p >= LEVEL:
                found[cell.cell.row, column.key] = "tied"
    return found


def rule(found: Mapping[tuple[str, str], Mark], table: FilledTable) -> str:
    """By which test ties were found; empty where nothing is marked or one replicate leaves nothing to test."""
    marked = [table.cells[place] for place in found]
    if not marked or all(cell.n < 2 for cell in marked):
        return ""
    kinds = {
        "Welch's t-test over seeds": any(paired_ratio(cell) is None for cell in marked),
        "corrected resampled t-test over folds": any(paired_ratio(cell) for cell in marked),
        "paired t-test over draws": any(paired_ratio(cell) == 0 for cell in marked),
    }
    tests = " or ".join(test for test, is_used in kinds.items() if is_used)
    return f"{tests}, Holm's correction in each column, {LEVEL * 100:.0f} % level"


def _p(first: FilledCell, second: FilledCell) -> float | None:
    """None where there are too few replicates, or too few of the same test samples, for a test."""
    ratio = None if paired_ratio(second) is None else paired_ratio(first)
    if ratio is not None:
        differences = [first.values[one] - second.values[one] for one in shared_replicates(first, second)]
        return corrected_t_test(differences, ratio)[1] if len(differences) > 1 else None
    if min(first.n, second.n) < 2:
        return None
    if not (first.sd or second.sd):  # no spread to measure with: equal means are tied, others are not
        return float(first.mean == second.mean)
    a, b = ((cell.mean, cell.sd, cell.n) for cell in (first, second))
    return float(ttest_ind_from_stats(*a, *b, equal_var=False).pvalue)


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    known = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(known) for p in p_values]
