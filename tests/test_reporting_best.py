"""Marks, ranks and verdicts: against tests of another library, and the other way round when the numbers are."""

from collections.abc import Mapping, Sequence

import pytest
from scipy import stats

from multimodal_loss.reporting.analysis.best import marks, rule
from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable
from multimodal_loss.reporting.analysis.ranks import rank_alike
from multimodal_loss.reporting.analysis.significance import corrected_t_test
from multimodal_loss.reporting.analysis.verdict import sentence
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row

OURS, OTHER = [95.0, 96.0, 97.0, 96.0, 95.5], [90.0, 91.0, 90.5, 90.0, 91.5]


def a_table(
    columns: Mapping[str, Mapping[str, Sequence[float]]],
    metrics: Mapping[str, str] | None = None,
    corner: str = "Method",
    test_to_train: float | None = None,
) -> FilledTable:
    """By column and row the values of the replicates; every metric is the accuracy unless said otherwise."""
    rows = dict.fromkeys(row for cells in columns.values() for row in cells)
    cells = {}
    for column, of_column in columns.items():
        for row, values in of_column.items():
            cell = Cell(row, column, (row, column), f"test/fused/{(metrics or {}).get(column, 'ACC')}")
            found = dict(enumerate(values))
            state = "complete" if found else "missing"
            cells[row, column] = FilledCell(cell, state, found, tuple(found), test_to_train=test_to_train)
    layout = Layout(
        *("t", "t", "t", "make t"),
        rows=tuple(Row(row, row) for row in rows),
        columns=tuple(Column(column, column) for column in columns),
        cells=tuple(cell.cell for cell in cells.values()),
        corner=corner,
    )
    return FilledTable(layout, cells)


def test_the_highest_is_best_and_the_lowest_where_less_is_better() -> None:
    table = a_table({"ACC": {"A": OURS, "B": OTHER}, "NLL": {"A": OURS, "B": OTHER}}, {"NLL": "NLL"})
    assert marks(table) == {("A", "ACC"): "best", ("B", "NLL"): "best"}
    assert marks(a_table({"t": {"A": OURS, "B": OTHER}}, {"t": "seconds"})) == {}
    assert marks(a_table({"ACC": {"A": OURS, "B": OTHER}}, corner="Proxies per class")) == {}
    assert marks(a_table({"ACC": {"A": OURS, "B": []}})) == {}


@pytest.mark.parametrize("shift", [0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0])
def test_seeds_are_tied_by_welchs_test_with_holms_correction(shift: float) -> None:
    near, far = [value - shift for value in OURS[:4]], OTHER
    p = stats.ttest_ind(OURS, near, equal_var=False).pvalue  # the larger of two: Holm leaves it as it is
    found = marks(table := a_table({"ACC": {"A": OURS, "B": near, "C": far}}))
    assert (found.get(("B", "ACC")) == "tied") == (p >= 0.05)
    assert ("C", "ACC") not in found and "Welch" in rule(found, table)


@pytest.mark.parametrize("ratio", [0.01, 0.25, 1.0])
def test_folds_are_tied_by_the_corrected_test_in_pairs(ratio: float) -> None:
    noise = [0.9, 0.2, 1.4, 0.3, 1.1]
    near = [value - lower for value, lower in zip(OURS, noise, strict=True)]
    found = marks(table := a_table({"ACC": {"A": OURS, "B": near}}, test_to_train=ratio))
    assert (found.get(("B", "ACC")) == "tied") == (corrected_t_test(noise, ratio)[1] >= 0.05)
    assert "over folds" in rule(found, table)


def test_without_spread_equal_means_are_tied_and_others_are_not() -> None:
    assert marks(a_table({"ACC": {"A": [90, 90], "B": [90, 90], "C": [89, 89]}})) == {
        ("A", "ACC"): "best",
        ("B", "ACC"): "best",
    }
    single = a_table({"ACC": {"A": [90], "B": [89]}})
    assert marks(single) == {("A", "ACC"): "best"} and rule(marks(single), single) == ""


def test_ranks_are_over_columns_of_one_metric_alone() -> None:
    three = {"A": OURS, "B": OTHER, "C": [80.0, 81.0]}
    ranks = rank_alike(a_table({"x": three, "y": {**three, "C": [99.0, 99.5]}}))
    assert ranks and [(row.key, rank) for row, rank in zip(ranks.rows, ranks.average, strict=True)] == [
        *(("A", 1.5), ("B", 2.5), ("C", 2.0))
    ]
    assert rank_alike(a_table({"x": three, "y": three}, {"y": "NLL"})) is None
    lower = rank_alike(a_table({"x": three, "y": three}, {"x": "NLL", "y": "NLL"}))
    assert lower and lower.average == (3, 2, 1)


def test_doctored_numbers_turn_the_verdict_round() -> None:
    first = a_table({"x": {"MultiModal": OURS, "SUM": OTHER}, "y": {"MultiModal": OURS, "SUM": OTHER}})
    assert sentence(first) == "MultiModal has the best mean in 2 of 2 columns."
    turned = a_table({"x": {"MultiModal": OTHER, "SUM": OURS}, "y": {"MultiModal": OTHER, "SUM": OURS}})
    assert sentence(turned) == (
        "MultiModal has the best mean in none of 2 columns and is behind the best in 2: "
        "in x SUM 95.9, MultiModal 90.6; in y SUM 95.9, MultiModal 90.6."
    )
    tied = a_table({"x": {"MultiModal": [90, 99], "SUM": [91, 99]}, "y": {"MultiModal": OURS, "SUM": OTHER}})
    assert (
        sentence(tied)
        == "MultiModal has the best mean in 1 of 2 columns (y) and is not told apart from the best in 1 (x)."
    )
    assert sentence(a_table({"x": {"5": [-2.0], "20": [3.0]}}, corner="K")) == "x from −2.0 (5) to 3.0 (20)."
    assert sentence(a_table({"x": {"MultiModal": [], "SUM": []}})) == ""
