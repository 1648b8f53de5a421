"""Table 2 and its pictures: what is expected of which run; generated clips never stand in for RAVDESS."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from golden.fakes import fake_facts, fake_name, fake_plan, fake_result, fake_runs, write_run
from golden.ravdess import EMOTIONS, fake_emotions, write_ravdess
from golden.tcga import runs_of
from multimodal_loss.configuration import planned_run
from multimodal_loss.report import report
from multimodal_loss.reporting.analysis.fill import fill
from multimodal_loss.reporting.analysis.findings import findings
from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.figures.runs import true_class_shares
from multimodal_loss.reporting.layouts import all_layouts
from multimodal_loss.reporting.layouts.base import Overrides
from multimodal_loss.reporting.layouts.ravdess import PRETRAINED
from test_reporting_page import Page

LAYOUTS = all_layouts()
FULL = ("table_2", "table_2_eight", "table_2_scratch", "table_2_scratch_eight")
NOTICE = "QUICK PROFILE, GENERATED DATA, NOT RAVDESS"


def quiet() -> Console:
    return Console(file=io.StringIO(), width=110)


def run_of(name: str, row: str) -> Overrides:
    run = next(cell.run for cell in LAYOUTS[name].cells if cell.row == row)
    assert not isinstance(run, str)
    return run


@pytest.mark.parametrize("name", FULL)
def test_every_cell_is_the_papers_and_of_the_run_that_its_row_says(name: str) -> None:
    layout = LAYOUTS[name]
    numbers = {key: number for key, number in paper_numbers().items() if key[0] == "2"}
    printed = {key for key, number in numbers.items() if number.mean is not None}
    named = {cell.paper for cell in layout.cells if cell.paper}
    assert printed - named == {("2", "MULT/audio_video", "ACC")} and named <= printed
    assert "78.50 (ACC) for both" in layout.description
    assert len(layout.cells) == len(layout.rows) * len(layout.columns) == 8 * 4
    methods = {
        "MULT/audio": "unimodal_1",
        "MULT/video": "unimodal_2",
        "sum_ce": "sum_ce_logits",
        "nn_ce": "joint_head",
        "mulmix": "mulmix_product",
    }
    for cell in layout.cells:
        assert cell.metric == f"test/fused/{cell.column}"
        assert f"method={methods.get(cell.row, cell.row)}" in cell.run
        assert f"dataset.classes={'eight' if 'eight' in name else 'merge'}" in cell.run
        pretrained = any(str(one).startswith("backbone.pretrained=") for one in cell.run)
        assert pretrained == ("scratch" not in name and cell.row != "MULT/audio")


def test_the_runs_are_those_that_the_commands_train(tmp_path: Path) -> None:
    """Whatever folder the released weights lie in; and each modality alone, or both, as its row says."""
    typed = ["experiment=table_2", "dataset.classes=merge", f"backbone.pretrained={tmp_path / PRETRAINED}"]
    assert planned_run([*typed, "method=multimodal"]).hash == planned_run(run_of("table_2", "multimodal")).hash
    audio = ["experiment=table_2_audio", "dataset.classes=eight", "dataset.permuted_labels=false", "method=unimodal_1"]
    for name in ("table_2_eight", "table_2_scratch_eight"):
        assert planned_run(audio).hash == planned_run(run_of(name, "MULT/audio")).hash
    hashes = {planned_run(run_of(name, row.key)).hash for name in FULL for row in LAYOUTS[name].rows}
    assert len(hashes) == 2 * (1 + 2 * 7)
    assert planned_run(run_of("table_2", "sum_ce")).replicates == tuple(range(5))


@pytest.mark.parametrize(
    ("profile", "dataset", "generated", "reason"),
    [
        ("quick", "ravdess_like", True, "profile quick"),
        ("full", "ravdess_like", True, "dataset ravdess_like"),
        ("full", "ravdess", True, "generated data"),
    ],
)
def test_a_run_of_generated_clips_under_a_name_of_table_2_fills_nothing(
    tmp_path: Path, profile: str, dataset: str, generated: bool, reason: str
) -> None:
    overrides = run_of("table_2", "multimodal")
    result = fake_result([0.9] * 5, ["audio", "video"], profile=profile)
    result["config"]["facts"] = fake_facts(dataset)
    result["dataset"]["generated"] = generated
    write_run(tmp_path / fake_name(overrides), result)
    cells = fill(LAYOUTS["table_2"], fake_runs(tmp_path)).cells.values()
    assert all(cell.n == 0 for cell in cells)
    assert reason in next(cell.note for cell in cells if cell.cell.run == overrides)


def test_the_quick_page_says_everywhere_that_its_clips_are_generated(tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_2"]
    write_ravdess(tmp_path / "runs", layout, notice="drawn")
    page = report(tmp_path / "runs", tmp_path / "out", [layout.name], plan=fake_plan, console=quiet()).read_text()
    assert f'<p class="banner">{NOTICE}.' in page and f"<h2>{NOTICE}" in page
    assert "<h3>Generated data, not RAVDESS</h3>" in page and "paper 8" not in page
    for file in (tmp_path / "out").glob("quick_table_2.[mt]*"):
        assert NOTICE in file.read_text() and "Drawn: Video alone, " in file.read_text()
    for picture in (tmp_path / "out" / "figures").iterdir():
        assert "NOT RAVDESS" in picture.read_text() or "<!-- QUICK" in picture.read_text()
    assert '<section id="table_2' not in page
    Page(page)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/, report/ and results/ of Table 2 with the trunk from scratch."""
    folder = tmp_path_factory.mktemp("ravdess")
    write_ravdess(folder / "runs", LAYOUTS["table_2_scratch"], notice="trunk from scratch")
    report(folder / "runs", folder / "report", (), folder / "results", plan=fake_plan, console=quiet())
    return folder


def test_the_page_has_the_table_beside_the_paper_and_its_pictures(built: Path) -> None:
    page = (built / "report" / "index.html").read_text()
    section = page[page.index('<section id="table_2_scratch">') :].partition("</section>")[0]
    assert "32 of 32 cells are complete" in section and "paper 82.76 ± 4.60" in section
    assert "Trunk from scratch: Video alone, SUM + CE, NN + CE" in section
    for title in ("Figure 6: probability", "F1 of each class", "Which modality carries which emotion", "Confusion"):
        assert section.count(f"<strong>{title}") == 1
    assert "Timeline" not in section and "device" not in section and "seeds pooled" not in section
    assert "differences in ACC between two methods are significant" in section
    Page(page)


def test_a_variant_is_shown_for_a_run_of_its_own_alone(built: Path, tmp_path: Path) -> None:
    """Sound alone is in both starts of the trunk, and says nothing of either."""
    page = (built / "report" / "index.html").read_text()
    assert '<section id="table_2">' in page and "4 of 32 cells are complete" in page
    layout = LAYOUTS["table_2"]
    write_ravdess(tmp_path / "runs", layout, [run for run in runs_of(layout) if "method=unimodal_1" not in run])
    alone = report(tmp_path / "runs", tmp_path / "out", plan=fake_plan, console=quiet()).read_text()
    assert '<section id="table_2">' in alone and "table_2_scratch" not in alone and "table_2_eight" not in alone
    absent = alone[alone.index("Not computed yet</h2>") :]
    assert "Table 2" not in absent and "Table 3" in absent


def test_what_is_committed(built: Path) -> None:
    folder = built / "results" / "table_2_scratch"
    shown = {f"{name}_table_2_scratch.png" for name in ("figure_6", "f1", "modalities", "confusion")}
    tables = {"README.md", "cells.csv", "environment.json", "modalities.csv", "significance.csv"}
    assert {path.name for path in folder.iterdir()} == {"overview.png", *tables, *shown}
    assert "Trunk from scratch" in (folder / "README.md").read_text()
    cells = (folder / "cells.csv").read_text().splitlines()
    assert len(cells) == 1 + 32 and all(line.count(";") >= 8 for line in cells[1:])  # every fold's value


def test_figure_6_is_of_each_modalitys_probability_of_the_true_class() -> None:
    arrays = fake_emotions(7, 2, 4.0, 2)
    shares = true_class_shares(arrays, ["audio", "video"])
    for m, name in enumerate(("audio", "video")):
        values = [
            arrays[f"{r}/modalities"][i, m, c] for r in range(2) for i, c in enumerate(arrays[f"{r}/target"].tolist())
        ]
        counts = [sum(min(int(10 * v), 9) == b for v in values) / len(values) for b in range(10)]
        np.testing.assert_allclose(shares[name], counts, atol=2 / len(values))


def test_pictures_name_emotions_upright_where_they_would_run_into_each_other(tmp_path: Path) -> None:
    layout = LAYOUTS["quick_table_2"]
    write_ravdess(tmp_path, layout)
    found = findings(layout.conditions[0], layout, fake_runs(tmp_path))
    assert found is not None
    pictures = {picture.name: picture.figure for picture in found.pictures}
    ax = pictures["modalities_quick_table_2"].axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["audio", "video", "fused"]
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == list(EMOTIONS[1:])
    assert {label.get_rotation() for label in labels} == {90.0}
