"""Which differences between methods over cross-validation folds are significant.

The folds' training sets overlap, so their differences are not independent and the plain paired t-test is too sure. The
corrected resampled t-test (Nadeau and Bengio, Machine Learning 52, 2003) takes (1/k + n_test/n_train) times the sample
variance for the variance of the mean difference, where the plain test takes 1/k. Holm's step-down correction (1979)
then keeps the chance of any false claim in the whole table below the level. Draws of the data share no samples: there
the same formula without n_test/n_train is the paired t-test.
"""

import io
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pandas as pd
from scipy.stats import t as student

from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable

LEVEL = 0.05
MOST_NAMED = 3  # of rows that the sentence counts together


@dataclass(frozen=True)
class Comparison:
    """Two rows of a table: the mean of first - second over folds in the printed unit, and how sure it is not 0; on
    which `column`, where several are tested.
    """

    first: str
    second: str
    folds: int
    difference: float
    t: float
    p: float
    p_holm: float
    column: str = ""

    @property
    def significant(self) -> bool:
        return self.p_holm < LEVEL


def corrected_t_test(differences: Sequence[float], test_to_train: float) -> tuple[float, float]:
    """t and the two-sided p of k >= 2 differences, one per fold, with k - 1 degrees of freedom.

    Where all differences are equal, p is 1 if they are 0, else 0. Raises ValueError for fewer than two.
    """
    k, mean = len(differences), statistics.fmean(differences)
    variance = (1 / k + test_to_train) * statistics.variance(differences)
    if variance == 0:
        return (0.0, 1.0) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
    t = mean / math.sqrt(variance)
    return t, float(2 * student.sf(abs(t), k - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: below a level exactly where Holm's procedure rejects at it."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def compare(table: FilledTable) -> list[Comparison]:
    """Every pair of rows on the layout's `compared` columns, over the folds in which both have the same test samples;
    none without such a column. Where the layout says `against` which rows, only pairs with one of these.

    A pair counts from two folds on, a row if its run says how large its training and test sets are, or if its cell is
    over draws of the data and has them all. Holm's correction is for the pairs of one column: each is a dataset of its
    own.
    """
    compared = table.layout.compared
    if isinstance(compared, str):
        return _compare(table, compared)
    titles = {column.key: column.full_title for column in table.layout.columns}
    return [replace(one, column=titles[key]) for key in compared for one in _compare(table, key)]


def _compare(table: FilledTable, column: str) -> list[Comparison]:
    rows = [(row, cell) for row in table.layout.rows if (cell := table.cells.get((row.key, column)))]
    known = [(row, cell, ratio) for row, cell in rows if (ratio := paired_ratio(cell)) is not None]
    found, against = [], table.layout.against
    for (row, a, ratio), (row_2, b, _) in itertools.combinations(known, 2):
        if against and row.key not in against and row_2.key not in against:
            continue
        differences = [a.values[one] - b.values[one] for one in shared_replicates(a, b)]
        if len(differences) > 1:
            t, p = corrected_t_test(differences, ratio)
            found.append((row.heading, row_2.heading, len(differences), statistics.fmean(differences), t, p))
    adjusted = holm([p for *_, p in found])
    return [Comparison(*pair, p_holm) for pair, p_holm in zip(found, adjusted, strict=True)]


def sentence(comparisons: Sequence[Comparison], focus: str, draws: bool = False) -> str:
    """What the comparisons say in words, most of all of the rows whose titles contain `focus`; empty without any.
    `draws`: they are over draws of the data, not over folds.
    """
    if not comparisons:
        return ""
    significant = [comparison for comparison in comparisons if comparison.significant]
    folds = " or ".join(map(str, sorted({comparison.folds for comparison in comparisons})))
    test = f"paired t-test over {folds} draws" if draws else f"corrected resampled t-test over {folds} folds"
    by_column = any(one.column for one in comparisons)
    test += f", Holm's correction for all pairs{' of a column' * by_column}, {LEVEL * 100:.0f} % level"
    text = f"{len(significant)} of {len(comparisons)} differences in ACC between two methods are significant ({test})."
    # One row, or several: by backbone, in one's own runs.
    ours = {title for one in comparisons for title in (one.first, one.second) if focus in title}
    several = by_column or len(ours) > 1
    named: dict[str, dict[str, dict[str, list[str]]]] = {}  # by row, "above" or "below", and the other row: the columns
    still_open = []
    for one in comparisons:
        first, second = (focus in title for title in (one.first, one.second))
        if not focus or first == second:
            continue
        own, other = (one.first, one.second) if first else (one.second, one.first)
        if one.significant:
            where = "above" if (one.difference > 0) == first else "below"
            places = named.setdefault(own if several else focus, {"above": {}, "below": {}})
            places[where].setdefault(other, []).append(one.column)
        else:
            still_open.append(other)
    for title, places in named.items():
        said = {
            where: "; ".join(
                f"{other} on {', '.join(columns)}" if by_column else other for other, columns in of.items()
            )
            for where, of in places.items()
        }
        text += f" {title} is {' and '.join(f'{where} {titles}' for where, titles in said.items() if titles)}."
    if several and still_open:
        return f"{text} {len(still_open)} further differences of {focus} could be chance."
    if len(still_open) > MOST_NAMED and not named:
        still_open = [f"each of the {len(still_open)} others"]
    return f"{text} {focus}'s difference from {'; '.join(still_open)} could be chance." if still_open else text


def to_csv(comparisons: Sequence[Comparison]) -> str:
    columns = [field.name for field in fields(Comparison)]
    if not any(one.column for one in comparisons):
        columns.remove("column")
    frame = pd.DataFrame(map(asdict, comparisons), columns=columns)
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def from_csv(text: str) -> list[Comparison]:
    """What `to_csv` wrote, to six digits. ValueError or KeyError for another file."""
    types: Any = {field.name: field.type for field in fields(Comparison)}
    frame = pd.read_csv(io.StringIO(text), dtype=types, keep_default_na=False)
    frame["column"] = frame.get("column", "")  # only where several are tested
    return [Comparison(*line) for line in frame[list(types)].itertuples(index=False)]


def shared_replicates(first: FilledCell, second: FilledCell) -> list[int]:
    """Ids of the replicates of both cells that have the same test samples: of two runs those whose data have one
    fingerprint or, since it differs between runs on different modalities, whose samples have the same classes in order;
    of draws of the data, and of committed cells, whose runs are not here, those of one id.
    """
    shared = sorted(first.values.keys() & second.values.keys())
    one, other = first.run, second.run
    if one is None or other is None:
        return shared

    def alike(replicate: int) -> bool:
        prints = [run.replicates[replicate].get("data_fingerprint") for run in (one, other)]
        if prints[0] is not None and prints[0] == prints[1]:
            return True
        targets = [run.targets.get(replicate) for run in (one, other)]
        return targets[0] is not None and targets[0] == targets[1]

    return [replicate for replicate in shared if alike(replicate)]


def paired_ratio(cell: FilledCell) -> float | None:
    """n_test / n_train of a cell that is compared in pairs: 0 of draws of the data, which share no samples; None of
    seeds, and of draws that are not all there.
    """
    if cell.cell.over:
        return 0.0 if cell.state == "complete" else None
    return cell.test_to_train
