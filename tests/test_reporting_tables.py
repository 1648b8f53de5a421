"""Tables: the golden sweep byte for byte, and the arithmetic behind a cell."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from golden.fakes import FakePlan, fake_name, fake_plan, fake_result, fake_runs, named_plan, write_run
from golden.regenerate import FOLDER, LAYOUT, expected_files, filled, write_sweep
from multimodal_loss.configuration import planned_run
from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable, Runs, as_read, fill, with_committed
from multimodal_loss.reporting.analysis.paper import PaperNumber
from multimodal_loss.reporting.formats.cells_csv import CSV_FIELDS, cells_csv, from_csv
from multimodal_loss.reporting.formats.latex import latex
from multimodal_loss.reporting.formats.markdown import markdown
from multimodal_loss.reporting.formats.text import Footnotes, grid, number, ours_text, replicates_text, summary
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row, Which
from multimodal_loss.reporting.layouts.synthetic import best_rates
from multimodal_loss.results.collect import read_runs

LAYOUTS = all_layouts()


@pytest.mark.parametrize("name", ["expected.md", "expected.tex", "expected.csv"])
def test_golden_sweep(name: str) -> None:
    assert expected_files()[name] == (FOLDER / name).read_text(encoding="utf-8")


def test_the_committed_sweep_is_the_one_described(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    assert cells_csv(filled(tmp_path)) == cells_csv(filled())


def test_golden_states() -> None:
    states = {place: cell.state for place, cell in filled().cells.items()}
    assert states == {
        ("noisy=0", "unimodal_m1"): "complete",
        ("noisy=0", "sum_ce"): "partial",
        ("noisy=0", "nn_ce"): "failed",
        ("noisy=0", "soft_triple"): "missing",
        ("noisy=0", "multimodal"): "complete",
        ("noisy=0", "lead"): "partial",
        ("noisy=2", "unimodal_m1"): "missing",
        ("noisy=2", "sum_ce"): "interrupted",
        ("noisy=2", "nn_ce"): "missing",
        ("noisy=2", "soft_triple"): "missing",
        ("noisy=2", "multimodal"): "complete",
        ("noisy=2", "lead"): "interrupted",
    }


def test_the_papers_number_never_stands_in_for_ours() -> None:
    for cell in filled().cells.values():
        if cell.state in ("missing", "failed", "interrupted"):
            assert cell.mean is None and cell.sd is None and cell.n == 0
            assert ours_text(cell, LAYOUT.columns[0]) in ("missing", "failed", "interrupted")


def cell(values: tuple[float, ...], paper: PaperNumber | None) -> FilledCell:
    return FilledCell(Cell("r", "c", ("x",)), "complete", dict(enumerate(values)), (0, 1, 2), paper=paper)


def test_distance_in_combined_standard_deviations() -> None:
    ours = cell((1.0, 2.0, 3.0), PaperNumber(4.0, 2.0))
    assert ours.mean == 2.0 and ours.sd == 1.0
    assert ours.difference == -2.0
    assert ours.distance == pytest.approx(2 / math.sqrt(5))
    assert ours.distance_class == 0


@pytest.mark.parametrize(
    ("ours_sd", "paper_sd", "paper_mean", "expected"),
    [
        (0.0, 0.0, 5.0, 0.0),  # both exact and equal
        (0.0, 0.0, 4.0, None),  # no scale to measure with
        (0.0, 0.5, 4.0, 2.0),
        (0.5, 0.0, 4.0, 2.0),
        (0.5, None, 4.0, None),
        (0.5, 0.5, None, None),
    ],
)
def test_distance_where_a_standard_deviation_is_zero_or_missing(
    ours_sd: float, paper_sd: float | None, paper_mean: float | None, expected: float | None
) -> None:
    spread = ours_sd / math.sqrt(2)
    ours = cell((5 - spread, 5 + spread), PaperNumber(paper_mean, paper_sd))
    assert ours.distance == (None if expected is None else pytest.approx(expected))


def test_one_replicate_has_no_standard_deviation_and_no_distance() -> None:
    single = cell((5.0,), PaperNumber(4.0, 1.0))
    assert (single.mean, single.sd, single.n, single.difference, single.distance) == (5.0, None, 1, 1.0, None)
    assert ours_text(single, Column("", "")) == "5.0"


@pytest.mark.parametrize(("distance", "index"), [(0.0, 0), (1.0, 0), (1.01, 1), (2.0, 1), (3.0, 2), (3.01, 3), (99, 3)])
def test_distance_classes(distance: float, index: int) -> None:
    assert cell((10.0 + distance, 10.0 + distance), PaperNumber(10.0, 1.0)).distance_class == index


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(86.44, False, "86.4"), (1.06, True, "+1.1"), (-0.3, True, "−0.3"), (-0.04, True, "0.0"), (None, True, "–")],
)
def test_numbers(value: float | None, signed: bool, text: str) -> None:
    assert number(value, 1, signed) == text


def test_a_difference_pairs_replicates_by_their_number(tmp_path: Path) -> None:
    layout = Layout(
        *("t", "t", "t", "t"),
        rows=(Row("r", "r"),),
        columns=(Column("c", "c"),),
        cells=(Cell("r", "c", ("a",), minus=("b",)),),
    )
    write_run(tmp_path / "a", fake_result([0.9, 0.8, 0.7]))
    second = fake_result([0.1, 0.2, 0.3])
    del second["replicates"][0]
    write_run(tmp_path / "b", second)
    found = fill(layout, Runs(read_runs(tmp_path), named_plan)).cells["r", "c"]
    assert found.values == {1: pytest.approx(60), 2: pytest.approx(40)}
    assert found.state == "partial"


def of_best() -> Layout:
    """The best of three runs for each of two draws, and the mean over draws."""
    draws = tuple((number, f"draw {number}") for number in (100, 101))
    cells = [Cell("r", c, among=tuple((f"{c[-3:]}{rate}", c) for rate in "abc")) for _, c in draws]
    columns = tuple(Column(column, column) for column in ("draw 100", "draw 101", "mean"))
    cells.append(Cell("r", "mean", over=draws))
    return Layout(*("t", "t", "t", "t"), rows=(Row("r", "r"),), columns=columns, cells=tuple(cells))


def write_tried(folder: Path, name: str, validation: float, test: Sequence[float]) -> None:
    result = fake_result(test)
    for replicate in result["replicates"]:
        replicate["metrics"]["validation"] = {"fused": {"ACC": validation}}
    write_run(folder / name, result)


def test_the_best_of_several_runs_is_that_of_the_validation_part(tmp_path: Path) -> None:
    """Also where another is better on the test part; without one of them the cell waits for it."""
    for name, validation, test in (("100a", 0.7, 0.99), ("100c", 0.8, 0.75), ("101b", 0.6, 0.65)):
        write_tried(tmp_path, name, validation, [test] * 5)

    def filled() -> FilledTable:
        return fill(of_best(), Runs(read_runs(tmp_path), named_plan))

    first, second, mean = filled().cells.values()
    assert (first.state, first.mean, first.note) == ("partial", pytest.approx(75), "100c; 2 of 3 runs have ended")
    assert (replicates_text(first, 5), first.n) == ("partial", 5)
    assert (second.state, mean.state, mean.n) == ("partial", "missing", 0)
    write_tried(tmp_path, "100b", 0.8, [0.85] * 5)  # as good as c there: the first counts
    first, second, mean = filled().cells.values()
    assert (first.state, first.mean, first.note) == ("complete", pytest.approx(85), "100b")
    assert first.wanted == "100a+100b+100c" and first.run and first.run.name == "100b"
    assert (mean.state, mean.values) == ("partial", {100: pytest.approx(85)})
    write_run(tmp_path / "101a", fake_result([0.9] * 5, status="failed", error="diverged"))
    assert (filled().cells["r", "draw 101"].note) == "101b; 101a failed; 2 of 3 runs have ended"
    write_tried(tmp_path, "101c", 0.5, [0.4] * 5)
    second = filled().cells["r", "draw 101"]  # a rate that diverges is one that was tried
    assert (second.state, second.mean, second.note) == ("complete", pytest.approx(65), "101b; 101a failed")
    # What was tried was trained for this table: its time counts, and it is nobody's own run.
    assert {run.name for run in filled().runs} == {"100a", "100b", "100c", "101a", "101b", "101c"}


def test_a_mean_over_draws_is_of_means_over_seeds_and_also_of_committed_cells(tmp_path: Path) -> None:
    for i, name in enumerate(("100a", "100b", "100c", "101a", "101b", "101c")):
        write_tried(tmp_path, name, 0.1 * i, [0.6 + 0.05 * i, 0.7, 0.7, 0.7, 0.8])
    runs = read_runs(tmp_path)
    whole = fill(of_best(), Runs(runs, named_plan))
    mean = whole.cells["r", "mean"]
    assert mean.values == {100: pytest.approx(72), 101: pytest.approx(75)} and mean.state == "complete"
    assert mean.sd == pytest.approx(3 / math.sqrt(2))
    committed = from_csv(of_best(), cells_csv(whole))
    assert committed.cells["r", "mean"].values == {100: 72.0, 101: 75.0}
    here = fill(of_best(), Runs([run for run in runs if run.name.startswith("101")], named_plan))
    assert here.cells["r", "mean"].state == "partial"
    joint = with_committed(here, committed, {})
    assert cells_csv(joint) == cells_csv(whole) and joint.cells["r", "draw 100"].run is None
    part = fill(of_best(), Runs([run for run in runs if run.name == "100a"], named_plan))
    assert part.cells["r", "draw 100"].state == "partial"
    assert cells_csv(with_committed(part, committed, {})) == cells_csv(whole)


def one_cell(name: str = "a") -> Layout:
    cells = (Cell("r", "c", (name,)),)
    return Layout(*("t", "t", "t", "t"), rows=(Row("r", "r"),), columns=(Column("c", "c"),), cells=cells)


def test_a_seed_of_any_size_is_one_value(tmp_path: Path) -> None:
    result = fake_result([0.9, 0.8])
    for replicate, seed in zip(result["replicates"], (20240101, 7), strict=True):
        replicate |= {"replicate_id": seed, "seed": seed}
    write_run(tmp_path / "a", result)
    plan = FakePlan("a", (7, 20240101), {}, "a")
    table = fill(one_cell(), Runs(read_runs(tmp_path), lambda _: plan))
    assert table.cells["r", "c"].state == "complete"
    text = cells_csv(table)
    (line,) = csv.DictReader(io.StringIO(text))
    assert (line["replicates"], line["values"], line["expected"]) == ("7;20240101", "80;90", "2")
    assert len(text) < 500
    assert from_csv(one_cell(), text).cells["r", "c"].values == {7: 80.0, 20240101: 90.0}


def test_one_replicate_where_one_is_planned_is_complete(tmp_path: Path) -> None:
    write_run(tmp_path / "a", fake_result([0.9]))
    found = fill(one_cell(), Runs(read_runs(tmp_path), lambda _: FakePlan("a", (0,), {}, "a"))).cells["r", "c"]
    assert (found.state, found.sd, replicates_text(found), ours_text(found, Column("", ""))) == (
        *("complete", None, "1 of 1", "90.0"),
    )


@pytest.mark.parametrize("file", ["config.yaml", "history.csv", "checkpoint.pt"])
def test_an_interrupted_run_is_shown_as_such(tmp_path: Path, file: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / file).write_text("")
    table = fill(one_cell(), Runs(read_runs(tmp_path), named_plan))
    assert table.cells["r", "c"].state == "interrupted" and table.complete == 0
    assert "0 of 1 cells are complete. 1 wait for a run that was interrupted" in summary(table)
    assert "| interrupted<br>" in markdown(table)


def test_a_run_is_found_by_its_hash_whatever_it_is_called(tmp_path: Path) -> None:
    """Of two with the same settings the finished one counts."""
    write_run(tmp_path / "another-name-a", fake_result([0.9] * 5))
    (tmp_path / "z-a").mkdir()
    (tmp_path / "z-a" / "config.yaml").write_text("")
    found = fill(one_cell(), Runs(read_runs(tmp_path), named_plan)).cells["r", "c"]
    assert (found.state, found.run and found.run.name) == ("complete", "another-name-a")


def test_files_without_the_column_replicates_are_numbered_from_0() -> None:
    text = ",".join(CSV_FIELDS) + "\nt,r,c,m,,,85,7,2,3,,,partial,,90;80;\n"
    cell = from_csv(one_cell(), text).cells["r", "c"]
    assert (cell.values, cell.expected, cell.state) == ({0: 90.0, 1: 80.0}, (0, 1, 2), "partial")


def test_a_run_without_the_metric_says_so(tmp_path: Path) -> None:
    layout = Layout(
        *("t", "t", "t", "t"),
        rows=(Row("r", "r"),),
        columns=(Column("c", "c"),),
        cells=(Cell("r", "c", ("a",), metric="test/fused/AUC"),),
    )
    write_run(tmp_path / "a", fake_result([0.9]))
    found = fill(layout, Runs(read_runs(tmp_path), named_plan)).cells["r", "c"]
    assert (found.state, found.note) == ("missing", "the run has no test/fused/AUC")


@pytest.mark.parametrize(("stored", "name"), [("quick", "table_1"), ("full", "quick")])
def test_profiles_never_mix(tmp_path: Path, stored: str, name: str) -> None:
    layout = LAYOUTS[name]
    for wanted in layout.cells:
        write_run(tmp_path / fake_name(wanted.run), fake_result([0.9] * 5, profile=stored))
    table = fill(layout, fake_runs(tmp_path))
    assert not table.has_values and not table.runs
    assert {cell.state for cell in table.cells.values()} == {"missing"}
    assert all(f"profile {stored}" in cell.note for cell in table.cells.values())


def test_a_table_survives_the_way_through_its_csv() -> None:
    table = filled()
    again = from_csv(LAYOUT, cells_csv(table))
    assert markdown(again) == markdown(table)
    assert cells_csv(again) == cells_csv(table)


def test_a_csv_of_other_cells_is_refused() -> None:
    text = cells_csv(filled())
    with pytest.raises(ValueError, match="has no cell"):
        from_csv(LAYOUTS["table_1"], text)


def test_a_cell_that_a_csv_lacks_is_missing() -> None:
    text = cells_csv(filled())
    short = from_csv(LAYOUT, text[: text.rindex("golden,")])
    assert short.cells["noisy=2", "lead"].state == "missing" and len(short.cells) == len(LAYOUT.cells)


def test_csv_values_are_the_replicates_in_order() -> None:
    rows = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(cells_csv(filled())))}
    partial = rows["noisy=0", "sum_ce"]
    assert partial["values"] == "93;93.2;92.71;;"
    assert (partial["n"], partial["expected"], partial["state"]) == ("3", "5", "partial")


def test_latex_is_plain_and_balanced() -> None:
    text = latex(filled())
    assert text.isascii()
    for opening, closing in (("\\begin{table}", "\\end{table}"), ("\\begin{tabular}", "\\end{tabular}")):
        assert text.count(opening) == text.count(closing) == 1
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    widths = {line.count("&") - line.count("\\&") for line in body.splitlines() if line.endswith("\\\\")}
    assert widths == {len(LAYOUT.columns) + 1, 3}, "the line of groups spans several columns"
    unescaped = text.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    assert unescaped.count("{") == unescaped.count("}")


def test_markdown_keeps_every_row_as_wide_as_the_header() -> None:
    rows = [line for line in markdown(filled()).splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {len(LAYOUT.columns) + 2}
    assert "<b>" not in markdown(filled())


def test_short_markdown_has_the_drawn_columns_and_still_counts_every_cell() -> None:
    layout = replace(LAYOUT, columns=(*LAYOUT.columns[:-1], replace(LAYOUT.columns[-1], drawn=False)))
    short = markdown(replace(filled(), layout=layout), short=True)
    rows = [line for line in short.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {len(LAYOUT.columns) + 1}
    assert "3 of 12 cells are complete" in short


def test_methods_that_stand_across_are_read_downwards_with_the_same_numbers() -> None:
    columns = tuple(column for column in LAYOUT.columns if column.key != "lead")
    cells = tuple(cell for cell in LAYOUT.cells if cell.column != "lead")
    across = replace(LAYOUT, columns=columns, cells=cells, across="Method")
    table = replace(filled(), layout=across, cells={k: v for k, v in filled().cells.items() if k[1] != "lead"})
    turned = as_read(table)
    assert [(row.group, row.title) for row in turned.layout.rows] == [(one.group, one.title) for one in columns]
    assert [(one.group, one.title, one.note) for one in turned.layout.columns] == [
        (row.group, row.title, row.note) for row in LAYOUT.rows
    ]
    assert {(column, row): cell.values for (row, column), cell in table.cells.items()} == {
        place: cell.values for place, cell in turned.cells.items()
    }
    assert as_read(replace(table, layout=replace(across, rows=LAYOUT.rows * 4))).layout.corner == "Data"


def test_rows_and_columns_of_which_nothing_has_begun_are_one_line() -> None:
    table = filled()
    begun = {place: cell for place, cell in table.cells.items() if place != ("noisy=0", "soft_triple")}
    nothing = replace(table.cells["noisy=2", "soft_triple"], note="", paper=None)
    found = grid(replace(table, cells={**begun, ("noisy=2", "soft_triple"): nothing}))
    assert "soft_triple" not in [column.title for column in found.columns] and len(found.lines) == 2
    assert found.notes[0] == "Not computed yet: soft_triple (python -m golden.regenerate)."
    assert len(grid(filled()).columns) == len(LAYOUT.columns)  # a cell with the paper's number or a reason stays


def test_notes_stand_once_below_the_table() -> None:
    footnotes = Footnotes()
    assert footnotes.mark("") == ""
    assert [footnotes.mark("a note"), footnotes.mark("another"), footnotes.mark("a note")] == ["[1]", "[2]", "[1]"]
    assert list(footnotes) == [(1, "a note"), (2, "another")]


def test_the_data_seed_beside_a_row_is_that_of_its_runs() -> None:
    def name_of(run: Which) -> str:
        return str(planned_run(run).facts["dataset"]["run_name"])

    for layout in (LAYOUTS[name] for name in ("table_1", "table_1_readings", "quick")):
        for row in layout.rows:
            run = name_of(next(cell.run for cell in layout.cells if cell.row == row.key))
            assert row.heading == f"{row.title} (data seed {run.rpartition('-seed')[2]})"
    run = name_of(LAYOUTS["appendix_b"].cells[0].run)
    assert LAYOUTS["appendix_b"].description.endswith(f"Data seed {run.rpartition('-seed')[2]}.")


def test_appendix_b_says_where_its_best_rates_are_the_papers() -> None:
    layout = LAYOUTS["appendix_b"]
    nothing = fill(layout, Runs([], fake_plan))
    assert best_rates(nothing) == ""

    def with_means(**rows: dict[str, float]) -> FilledTable:
        cells = dict(nothing.cells)
        for row, means in rows.items():
            for rate, mean in means.items():
                cells[row, f"lr={rate}"] = replace(cells[row, f"lr={rate}"], state="complete", values={0: mean})
        return replace(nothing, cells=cells)

    # The paper: SUM + CE is best at 5e-4, NN + CE at 5e-5, and at 5e-4 of the two fastest; MultiModal at 5e-4.
    assert best_rates(with_means(sum_ce={"5e-4": 85.0})) == ""
    found = with_means(sum_ce={"5e-3": 80.0, "5e-4": 85.0}, nn_ce={"5e-3": 81.0, "5e-4": 80.0}, multimodal={"5e-5": 99})
    assert best_rates(found) == (
        "Of the rates that are complete and in the paper, the best is the paper's for 1 of 2 methods "
        "(NN + CE 5e-3, in the paper 5e-4)."
    )
    # ProxyAnchor at 5e-6 has no number in the paper, which says nothing of its place there.
    slow = with_means(proxy_anchor={"5e-4": 60.0, "5e-5": 70.0, "5e-6": 75.0})
    assert best_rates(slow).endswith("1 of 1 method. Better is ProxyAnchor at 5e-6, for which the paper has no number.")
