"""Table 7: ranks over datasets, tests on several columns, and its layouts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from golden.fakes import fake_result, named_plan, write_run
from multimodal_loss.configuration import planned_run
from multimodal_loss.report import _started
from multimodal_loss.reporting.analysis import ranks, significance
from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable, Runs
from multimodal_loss.reporting.analysis.ranks import behind, rank
from multimodal_loss.reporting.figures.base import save
from multimodal_loss.reporting.figures.ranks import critical_difference, groups
from multimodal_loss.reporting.figures.trust import trust_picture
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row
from multimodal_loss.results.collect import Run, read_runs, read_trust

METHODS, DATASETS = "abcd", ("one", "two", "three", "four", "five")
# Accuracies of the methods (rows) on the datasets; a is always best, d always worst, b and c share the places between.
MEANS = np.array([[95, 80, 70, 60, 50], [94, 79, 68, 59, 48], [93, 78, 69, 58, 49], [90, 70, 60, 50, 40]], dtype=float)


def table(means: np.ndarray = MEANS, lacking: tuple[tuple[str, str], ...] = (), **options: object) -> FilledTable:
    """Two replicates a cell, a run a cell."""
    rows, columns = tuple(Row(m, f"Method {m}") for m in METHODS), tuple(Column(d, d) for d in DATASETS)
    layout = Layout("t", "T", "", "", rows, columns, (), **options)  # type: ignore[arg-type]
    cells = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            value = float(means[i, j])
            values = {0: value - 0.1 - i / 50, 1: value + 0.1 + i / 50}
            replicates = [{"replicate_id": r, "data_fingerprint": f"{column.key}{r}"} for r in range(2)]
            sizes = {"dataset": {"sizes": {"train": 80, "test": 20}}, "replicates": replicates}
            run = Run(Path(f"{row.key}{column.key}-0"), "done", result=sizes)
            state = "partial" if (row.key, column.key) in lacking else "complete"
            cell = Cell(row.key, column.key, ("x",))
            cells[row.key, column.key] = FilledCell(cell, state, values, (0, 1), run=run, test_to_train=0.25)  # type: ignore[arg-type]
    return FilledTable(layout, cells)


def test_average_ranks_friedman_and_nemenyi() -> None:
    found = rank(table(), METHODS)
    assert found is not None
    np.testing.assert_allclose(found.average, [1, 2.4, 2.6, 4])
    assert found.p == pytest.approx(friedmanchisquare(*MEANS).pvalue)
    assert found.critical_difference == pytest.approx(
        2.569 * np.sqrt(4 * 5 / (6 * 5)), rel=1e-3
    )  # Demsar's table: q of 4
    text = ranks.sentence(found, "Linear")
    assert "4 methods on 5 datasets" in text and "1.0 (Method a)" in text and "1 of 6 pairs" in text


def test_equal_methods_differ_by_nothing_and_ties_share_their_rank() -> None:
    found = rank(table(np.ones((4, 5))), METHODS)
    assert found is not None and found.average == (2.5,) * 4 and found.p == 1
    assert "no difference of ranks is more than chance" in ranks.sentence(found, "x")


def test_what_is_not_complete_is_left_out_and_too_little_gives_nothing() -> None:
    found = rank(table(lacking=(("a", "one"), ("b", "one"), ("c", "one"))), METHODS)
    assert found is not None and [c.key for c in found.columns] == list(DATASETS[1:]) and len(found.rows) == 4
    found = rank(table(lacking=tuple(("d", d) for d in DATASETS)), METHODS)
    assert found is not None and [row.key for row in found.rows] == ["a", "b", "c"] and len(found.columns) == 5
    assert rank(table(), "ab") is None
    assert rank(table(lacking=tuple((m, d) for m in METHODS for d in DATASETS[1:])), METHODS) is None
    assert ranks.sentence(None, "x") == ""


def test_bars_join_the_longest_runs_within_the_critical_difference() -> None:
    assert groups([1, 1.5, 2.2, 4], 1.25) == [(0, 2)]
    assert groups([1, 2, 3, 4], 1) == [(0, 1), (1, 2), (2, 3)]
    assert groups([1, 3, 5], 1) == []


def test_the_picture_is_drawn_from_the_table() -> None:
    (picture,) = critical_difference(table(), METHODS, name="ranks", title="Ranks")
    assert picture.png == "ranks" and save(picture.figure, "svg").startswith(b"<?xml")
    assert picture.figure.axes[0].get_yticklabels()[0].get_text() == "Method a"
    assert not list(critical_difference(table(), "ab", name="ranks", title="Ranks"))


def test_networks_behind_the_reference_are_named() -> None:
    said = behind(table(), "a", "bcd").splitlines()
    assert said[:2] == [
        "10 of 15 networks are more than 1 point below Method a:",
        "2 of 3 on one: Method d (-5.0); Method c (-2.0).",
    ]
    assert len(said) == 6 and sum(int(line.split()[0]) for line in said[1:]) == 10
    assert behind(table(), "d", "abc") == "0 of 15 networks are more than 1 point below Method d."
    assert behind(table(), "none", "abc") == ""


def test_every_column_is_tested_by_itself_and_only_against_what_is_asked() -> None:
    found = significance.compare(table(compared=("one", "two"), against=("a",)))
    assert [(one.first, one.second, one.column) for one in found] == [
        (f"Method {a}", f"Method {b}", column) for column in ("one", "two") for a, b in ("ab", "ac", "ad")
    ]
    alone = significance.compare(table(compared="two", against=("a",)))
    assert [dataclasses.replace(one, column="") for one in found[3:]] == alone
    text = significance.to_csv(found)
    restored = significance.from_csv(text)
    assert [one.column for one in restored] == [one.column for one in found]
    assert "column" not in significance.to_csv(alone).splitlines()[0]
    assert all(one.column == "" for one in significance.from_csv(significance.to_csv(alone)))


def test_the_verdict_names_rows_and_datasets() -> None:
    one = significance.Comparison("MultiModal, Linear", "TMC, Linear", 10, 2.0, 5.0, 0.001, 0.004, "htad")
    lost = dataclasses.replace(one, first="SUM", second="MultiModal, MLP")
    others = [
        dataclasses.replace(one, column="digits"),
        dataclasses.replace(one, column="brca", p_holm=0.5),
        dataclasses.replace(one, first="SUM"),
    ]
    said = significance.sentence([one, lost, *others], "MultiModal")
    assert said.startswith("4 of 5 differences in ACC between two methods are significant (")
    assert said.endswith(
        "). MultiModal, Linear is above TMC, Linear on htad, digits. MultiModal, MLP is below SUM on htad. "
        "1 further differences of MultiModal could be chance."
    )


def trusting(folder: Path, **arrays: np.ndarray) -> Run:
    folder.mkdir()
    np.savez(folder / "predictions.npz", **{key.replace("_", "/"): array for key, array in arrays.items()})
    return Run(folder, "done")


def test_trust_is_read_of_the_replicates_that_stored_it_soundly(tmp_path: Path) -> None:
    shares = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    which = np.array([0, -1, 1])
    run = trusting(
        tmp_path / "a-1",
        **{"0_weights": shares, "0_replaced": which, "1_weights": shares[:1], "1_replaced": which[:1]},
        **{"2_weights": shares},  # nothing was replaced
        **{"3_weights": shares * 2, "3_replaced": which, "4_weights": shares, "4_replaced": which[:2]},
    )
    found = read_trust(run)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.concatenate([shares, shares[:1]]))
    assert found[1].tolist() == [0, -1, 1, 0]
    assert read_trust(trusting(tmp_path / "b-1", **{"0_weights": shares})) is None
    assert read_trust(Run(tmp_path / "gone-1", "unfinished")) is None


def test_the_picture_of_trust_tells_what_was_replaced_from_the_rest(tmp_path: Path) -> None:
    shares, which = np.array([[0.1, 0.9], [0.7, 0.3]]), np.array([0, -1])
    whole = table()
    run = trusting(tmp_path / "a-1", **{"0_weights": shares, "0_replaced": which})
    cells = {("b", "two"): dataclasses.replace(whole.cells["b", "two"], run=run)}
    (picture,) = trust_picture(dataclasses.replace(whole, cells=cells), name="trust")
    (axes,) = picture.figure.axes
    assert axes.get_title(loc="left") == "two" and [one.get_text() for one in axes.get_yticklabels()] == ["Method b"]
    medians = {line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}
    assert medians == {0.1, 0.7}  # of the one that was replaced, and of 0.9, 0.7 and 0.3
    assert not list(trust_picture(whole, name="trust"))


def test_twenty_proxies_as_released_are_the_runs_of_table_7() -> None:
    layouts = all_layouts()
    own = {cell.column: cell.run for cell in layouts["table_7_multimodal"].cells if cell.row == "released/20"}
    of_table_7 = {cell.column: cell.run for cell in layouts["table_7"].cells if cell.row == "multimodal/mlp_small"}
    assert own.keys() == of_table_7.keys()
    assert planned_run(own["htad"]).hash == planned_run(of_table_7["htad"]).hash
    other = next(cell.run for cell in layouts["table_7_multimodal"].cells if cell.row == "paper/20")
    assert planned_run(other).hash != planned_run(of_table_7["htad"]).hash


def test_layouts_have_a_cell_for_every_row_and_the_runs_of_the_experiments() -> None:
    layouts = {name: layout for name, layout in all_layouts().items() if name.startswith("table_7")}
    overview = layouts["table_7"]
    assert len(overview.cells) == len(overview.rows) * len(overview.columns)
    assert set(overview.against) <= {row.key for row in overview.rows} and len(overview.against) == 3
    assert {layout.dataset for layout in layouts.values()} - {""} == {column.key for column in overview.columns}
    metrics = {cell.metric for cell in layouts["table_7_htad"].cells}
    assert {"test/fused/NLL", "test_tempered/fused/ECE", "seconds"} <= metrics


def test_a_table_of_a_part_of_anothers_runs_is_shown_with_it(tmp_path: Path) -> None:
    def of(name: str, *names: str) -> Layout:
        cells = tuple(Cell(one, "ACC", (one,)) for one in names)
        return Layout(name, name, "", "", tuple(Row(one, one) for one in names), (Column("ACC", "ACC"),), cells)

    for name in ("a", "b"):
        write_run(tmp_path / name, fake_result([0.9]))
    tables = [of("whole", "a", "b", "c"), of("part", "a", "c"), of("other", "a", "d"), of("empty", "c")]
    shown, absent = _started(tables, Runs(read_runs(tmp_path), named_plan))
    assert [one.layout.name for one in shown] == ["whole", "part"]
    assert [layout.name for layout in absent] == ["other", "empty"]
