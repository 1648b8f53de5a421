"""Tables 5 and 6 and Figure 5: what is expected of which run; other data than the paper's are never compared."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from golden.fakes import (
    fake_facts,
    fake_name,
    fake_plan,
    fake_predictions,
    fake_result,
    fake_runs,
    write_predictions,
    write_run,
)
from golden.tcga import runs_of, write_tcga
from multimodal_loss.report import report
from multimodal_loss.reporting.analysis.fill import fill
from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.analysis.provenance import machine, provenance
from multimodal_loss.reporting.figures.base import save
from multimodal_loss.reporting.figures.tables import comparison_figure, series_figure
from multimodal_loss.reporting.formats.cells_csv import cells_csv, from_csv
from multimodal_loss.reporting.formats.markdown import markdown
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.results.collect import read_run, read_runs
from test_reporting_page import Page

LAYOUTS = all_layouts()
DATASETS = ("tcga", "tcga_subtypes", "tcga_brca", "tcga_kipan")
OTHERS = DATASETS[1:]
MOMA = ("backbone=moma", "trainer=moma")


def layout_name(table: str, dataset: str) -> str:
    return table if dataset == "tcga" else f"{table}_{dataset}"


@pytest.mark.parametrize("dataset", DATASETS)
def test_table_5_expects_each_run_of_its_dataset(dataset: str) -> None:
    layout = LAYOUTS[layout_name("table_5", dataset)]
    assert {run[:2] for run in runs_of(layout)} == {("experiment=table_5", f"dataset={dataset}")}
    assert len(runs_of(layout)) == 13
    multitask = {cell.row: cell.metric for cell in layout.cells if "method=multitask" in cell.run}
    assert multitask.keys() == {"multitask/GE", "multitask/DM", "ensemble"}
    metrics = {(cell.row, cell.column): cell.metric for cell in layout.cells}
    assert metrics["multitask/DM", "ACC"] == "test/modalities/DM/ACC"
    assert metrics["ensemble", "AUC_weighted"] == "test/fused/AUC_weighted"
    assert {metrics[row.key, "time_min"] for row in layout.rows} == {"seconds"}


@pytest.mark.parametrize(("table", "key"), [("table_5", "5"), ("table_6", "6")])
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_number_of_the_paper_is_beside_a_cell(table: str, key: str, dataset: str) -> None:
    layout = LAYOUTS[layout_name(table, dataset)]
    assert {cell.paper for cell in layout.cells if cell.paper} == {name for name in paper_numbers() if name[0] == key}
    places = [(cell.row, cell.column) for cell in layout.cells]
    assert len(places) == len(set(places))
    assert set(places) == {(row.key, column.key) for row in layout.rows for column in layout.columns}


def test_an_unfinished_run_alone_may_start_a_table(tmp_path: Path) -> None:
    run = tmp_path / "runs" / fake_name(LAYOUTS["table_5_tcga_brca"].cells[0].run)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("facts: {dataset: {name: tcga_brca}}")
    page = report(tmp_path / "runs", tmp_path / "report", plan=fake_plan, console=quiet()).read_text()
    assert '<section id="table_5_tcga_brca">' in page


@pytest.mark.parametrize("table", ["table_5", "table_6", "figure_5", "appendix_c"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_titles_and_commands_name_the_data(table: str, dataset: str) -> None:
    layout = LAYOUTS[layout_name(table, dataset)]
    target = f"make reproduce-{table.replace('_', '-')}"
    if dataset == "tcga":
        assert "34 classes" in layout.title and "not the paper's data" not in layout.title
        assert layout.command == target
    else:
        assert f"on {dataset}, not the paper's data" in layout.title
        assert layout.command == f"{target} DATASET={dataset}"


def quiet() -> Console:
    return Console(file=io.StringIO(), width=110)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/, report/ and results/ of Table 5 on other data, and of Table 6 and Figure 5 on the paper's."""
    folder = tmp_path_factory.mktemp("tcga")
    names = ["table_5_tcga_kipan", "table_6", "figure_5"]
    for name in names:
        write_tcga(folder / "runs", LAYOUTS[name], predictions=name.startswith("table_5"))
    console = quiet()
    report(folder / "runs", folder / "report", names, folder / "results", plan=fake_plan, console=console)
    assert isinstance(console.file, io.StringIO)
    (folder / "screen.txt").write_text(console.file.getvalue())
    return folder


def section(built: Path, name: str) -> str:
    page = (built / "report" / "index.html").read_text()
    return page[page.index(f'<section id="{name}">') :].partition("</section>")[0]


def test_the_page_is_well_formed(built: Path) -> None:
    page = Page((built / "report" / "index.html").read_text())
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)
    assert {link for link in page.links if link.startswith("#")} <= {f"#{name}" for name in page.ids}


def test_other_data_show_the_papers_numbers_as_a_reference_and_compare_nothing(built: Path) -> None:
    text = section(built, "table_5_tcga_kipan")
    assert "not the paper's data".replace("'", "&#39;") in text
    assert "reference 96.13 ± 0.16" in text and "paper 96.13" not in text
    markdown = (built / "report" / "table_5_tcga_kipan.md").read_text()
    assert "<br>reference 96.13 ± 0.16" in markdown
    screen = (built / "screen.txt").read_text().partition("Table 6")[0]
    assert "reference" in screen
    for shown in (text, markdown, screen):
        assert " sd)" not in shown and "combined standard deviations" not in shown and "Distance" not in shown
    assert not any(f' d{i}"' in text for i in range(4)) and "swatch" not in text
    rows = list(csv.DictReader((built / "results" / "table_5_tcga_kipan" / "cells.csv").open()))
    assert {row[column] for row in rows for column in ("paper_mean", "paper_sd", "difference", "distance")} == {""}
    best = next(row for row in rows if (row["row"], row["column"]) == ("multimodal", "ACC"))
    assert (best["reference_mean"], best["reference_sd"]) == ("96.13", "0.16")


def test_the_papers_own_data_are_compared(built: Path) -> None:
    text = section(built, "table_6")
    assert "paper 96.13 ± 0.16" in text and " sd)" in text and "reference" not in text
    rows = list(csv.DictReader((built / "results" / "table_6" / "cells.csv").open()))
    assert "reference_mean" not in rows[0] and rows[0]["paper_mean"] == "96.13" and rows[0]["difference"]


def test_three_rows_share_one_run_and_its_time(built: Path) -> None:
    layout = LAYOUTS["table_5_tcga_kipan"]
    table = fill(layout, fake_runs(built / "runs"))
    times = [table.cells[row, "time_min"] for row in ("multitask/GE", "multitask/DM", "ensemble")]
    assert len({cell.run.name for cell in times if cell.run}) == 1
    assert times[0].values == {fold: pytest.approx(5 + fold / 60) for fold in range(5)}
    assert table.cells["multitask/GE", "ACC"].values != table.cells["ensemble", "ACC"].values
    assert "on an example CPU (1 thread)" in table.description


def test_a_reference_table_survives_the_way_through_its_csv(built: Path) -> None:
    layout = LAYOUTS["table_5_tcga_kipan"]
    table = fill(layout, fake_runs(built / "runs"))
    again = from_csv(layout, cells_csv(table), machine([provenance(table.runs)]))
    assert markdown(again) == markdown(table)
    assert cells_csv(again).splitlines()[0] == cells_csv(table).splitlines()[0]


def test_the_page_says_which_differences_are_real(built: Path) -> None:
    text = section(built, "table_5_tcga_kipan")
    assert "of 105 differences in ACC between two methods are significant" in text
    saved = list(csv.DictReader((built / "results" / "table_5_tcga_kipan" / "significance.csv").open()))
    assert len(saved) == 105
    assert {row["folds"] for row in saved} == {"5"}
    assert "are significant" in (built / "screen.txt").read_text()
    assert not (built / "results" / "figure_5" / "significance.csv").exists()


def test_each_modality_inside_and_alone(built: Path) -> None:
    text = section(built, "table_5_tcga_kipan")
    own = text[text.index('aria-label="Own predictions"') :].partition("</table>")[0]
    # Two modalities in each of eight fusions; logistic regression and the networks of one modality have none inside.
    assert own.count("<tr>") == 1 + 2 * 8
    runs = {run.name: run for run in read_runs(built / "runs")}
    layout = LAYOUTS["table_5_tcga_kipan"]
    overrides = {cell.row: cell.run for cell in layout.cells}
    inside, alone = (
        runs[fake_name(overrides[row])].values("test/modalities/GE/ACC") for row in ("multimodal", "alone/GE")
    )
    difference = np.mean([inside[r] - alone[r] for r in range(5)])
    assert f"{difference:+.3f}".replace("-", "−") in own


def test_the_committed_modalities_are_those_of_the_runs(built: Path) -> None:
    rows = list(csv.DictReader((built / "results" / "table_5_tcga_kipan" / "modalities.csv").open()))
    assert list(rows[0])[:5] == ["condition", "method", "replicate_id", "modality", "prediction"]
    seen = {(row["method"], row["modality"]) for row in rows}
    assert {("MultiModal", m) for m in ("GE", "DM", "fused")} <= seen
    assert {("Logistic regression", "joint"), ("MOMA GE alone", "GE")} <= seen
    assert ("MOMA GE alone", "fused") not in seen and ("Logistic regression GE + DM", "fused") not in seen
    layout = LAYOUTS["table_5_tcga_kipan"]
    overrides = next(cell.run for cell in layout.cells if cell.row == "sum_ce")
    stored = read_run(built / "runs" / fake_name(overrides)).values("test/modalities/DM/ACC")
    found = {
        int(r["replicate_id"]): float(r["ACC"]) for r in rows if (r["method"], r["modality"]) == ("SUM + CE", "DM")
    }
    assert found == pytest.approx(stored)


def test_variants_have_their_modalities_saved_too(built: Path) -> None:
    """Figure 5 shows no condition: a line for each replicate and modality of each row's run."""
    rows = list(csv.DictReader((built / "results" / "figure_5" / "modalities.csv").open()))
    assert {row["modality"] for row in rows} == {"GE", "DM", "fused"}
    assert len(rows) == len({(row["method"], row["modality"], row["replicate_id"]) for row in rows})
    layout = LAYOUTS["figure_5"]
    of_ten = next(cell.run for cell in layout.cells if cell.row.endswith("10"))
    stored = read_run(built / "runs" / fake_name(of_ten)).values("test/modalities/DM/ACC")
    found = [float(row["ACC"]) for row in rows if (row["method"], row["modality"]) == ("10", "DM")]
    assert found == pytest.approx(list(stored.values()))


def test_figure_5_is_drawn_and_saved_from_its_cells(built: Path) -> None:
    folder = built / "results" / "figure_5"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "cells.csv", "environment.json", "figure_5.png", "modalities.csv"),
    }
    assert 'alt="ACC: 1 ' in section(built, "figure_5") and "<strong>Figure 5.<" in section(built, "figure_5")


def test_figure_5_draws_means_with_their_spread(built: Path) -> None:
    table = fill(LAYOUTS["figure_5"], fake_runs(built / "runs"))
    figure = series_figure(table)
    accuracy = figure.axes[0]
    line = next(line for line in accuracy.lines if str(line.get_label()).startswith("ours"))
    assert list(line.get_xdata()) == [1, 2, 5, 10, 20, 50, 100]
    cell = table.cells["proxies_per_class=5", "ACC"]
    assert list(line.get_ydata())[2] == pytest.approx(cell.mean)
    heights = [y for x, y in accuracy.collections[0].get_paths()[0].vertices if x == 5]
    assert cell.mean is not None and cell.sd is not None
    assert (min(heights), max(heights)) == pytest.approx((cell.mean - cell.sd, cell.mean + cell.sd))


def test_figure_5_with_one_point_or_one_fold(tmp_path: Path) -> None:
    layout = LAYOUTS["figure_5_tcga_brca"]
    result = fake_result([0.9], ["GE", "DM"])
    write_run(tmp_path / fake_name(layout.cells[0].run), result)
    table = fill(layout, fake_runs(tmp_path))
    assert save(series_figure(table), "svg").startswith(b"<?xml")


def test_the_overview_gives_each_metric_its_own_axis(built: Path) -> None:
    table = fill(LAYOUTS["table_5_tcga_kipan"], fake_runs(built / "runs"))
    figure = comparison_figure(table)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["ACC", "FW", "AUC", "MCC", "AP", "Time (min)"]
    assert not any("paper" in str(line.get_label()) for ax in figure.axes for line in ax.containers)
    assert figure.axes[5].get_xlim()[1] < 30 < figure.axes[0].get_xlim()[0]


def test_without_names_only_started_tables_are_shown(tmp_path: Path) -> None:
    write_tcga(tmp_path / "runs", LAYOUTS["table_5_tcga_brca"], predictions=False)
    page = report(tmp_path / "runs", tmp_path / "report", plan=fake_plan, console=quiet()).read_text()
    shown = [name for name in LAYOUTS if f'<section id="{name}">' in page]
    # MultiModal's run of Table 5, which is also a row of Table 6 and of Appendix C, does not start these.
    assert shown == ["table_5_tcga_brca"]
    absent = page[page.index("Not computed yet</h2>") :]
    assert "make reproduce-table-5<" in absent and "not the paper" not in absent


def test_damaged_predictions_leave_tables_and_tests_alone(tmp_path: Path) -> None:
    layout = LAYOUTS["table_5_tcga_brca"]
    write_tcga(tmp_path / "runs", layout, predictions=False)
    damage = iter([b"", b"PK\x03\x04 cut", b"\x93NUMPY"] * 5)
    for run in (tmp_path / "runs").iterdir():
        (run / "predictions.npz").write_bytes(next(damage))
    report(tmp_path / "runs", tmp_path / "report", [layout.name], plan=fake_plan, console=quiet())
    text = (tmp_path / "report" / "index.html").read_text()
    assert "150 of 150 cells are complete" in text and "are significant" in text and "Own predictions" in text
    assert [path.name for path in (tmp_path / "report" / "figures").iterdir()] == [f"{layout.name}_overview.svg"]


def test_a_modality_that_was_not_trained_alone_is_not_compared(tmp_path: Path) -> None:
    layout = LAYOUTS["table_5_tcga_brca"]
    lacking = [cell.run for cell in layout.cells if cell.row == "alone/DM"]
    write_tcga(tmp_path / "runs", layout, without=lacking, predictions=False)
    page = report(tmp_path / "runs", tmp_path / "report", [layout.name], plan=fake_plan, console=quiet()).read_text()
    own = page[page.index('aria-label="Own predictions"') :].partition("</table>")[0]
    assert "<td>GE</td>" in own and "<td>DM</td>" not in own


def test_training_time_is_the_sum_where_replicates_train_one_after_another(tmp_path: Path) -> None:
    folds = fake_result([0.9, 0.8])
    for fold, replicate in enumerate(folds["replicates"]):
        replicate["fold"] = fold
    batches = fake_result([0.9, 0.8], config={"trainer": {"batch_size": 100}})
    for name, result in (("folds", folds), ("batches", batches), ("together", fake_result([0.9, 0.8]))):
        write_run(tmp_path / name, result)
    seconds = {run.name: provenance([run])["training_seconds"] for run in read_runs(tmp_path)}
    assert seconds == {"folds": 122.0, "batches": 122.0, "together": 61.5}


@pytest.mark.parametrize(
    ("device", "hardware", "expected"),
    [
        ("cpu", {"cpu": "A", "gpu": None, "threads": 2}, "A (2 threads)"),
        ("cuda:0", {"cpu": "A", "gpu": "G", "threads": 2}, "G"),
        (["cpu", "cuda"], {"cpu": ["A", "B"], "gpu": [None, "G"], "threads": 1}, "G, A (1 thread), B (1 thread)"),
        (None, None, ""),
    ],
)
def test_the_machine_is_named(device: object, hardware: object, expected: str) -> None:
    assert machine([{"device": device, "hardware": hardware}] * 2) == expected


def test_predictions_of_one_modality_need_no_fused_panel(tmp_path: Path) -> None:
    layout = LAYOUTS["table_5_tcga_brca"]
    overrides = next(cell.run for cell in layout.cells if cell.row == "logistic/GE_DM")
    config = {"facts": fake_facts("tcga_brca", "logistic", "logistic")}
    run = write_run(
        tmp_path / "runs" / fake_name(overrides), fake_result([0.9] * 5, ["joint"], inputs=["GE", "DM"], config=config)
    )
    write_predictions(run, fake_predictions([(0.8, 0.9)] * 5, samples=40))
    report(tmp_path / "runs", tmp_path / "report", [layout.name], tmp_path / "results", fake_plan, quiet())
    assert "reliability_" in " ".join(path.name for path in (tmp_path / "report" / "figures").iterdir())
    saved = (tmp_path / "results" / layout.name / "modalities.csv").read_text().splitlines()
    assert len(saved) == 1 + 5 and all(",joint," in line for line in saved[1:])
