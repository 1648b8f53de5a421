"""scripts/update_readme.py: the README's tables come from the committed results and from nothing else."""

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from multimodal_loss.reporting.provenance import provenance
from multimodal_loss.reporting.significance import Comparison
from rich.console import Console

from golden.fakes import fake_name, fake_result, write_run
from multimodal_loss.report import report
from multimodal_loss.reporting import significance, tables
from multimodal_loss.reporting.layouts import LAYOUTS
from multimodal_loss.results.collect import read_runs

ROOT = Path(__file__).parents[1]
BLOCK = "<!-- table_1:begin -->\nold\n<!-- table_1:end -->"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


update_readme = load_script()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Saved results of a Table 1 with one filled cell."""
    layout = LAYOUTS["table_1"]
    write_run(tmp_path / "runs" / fake_name(layout.cells[8].overrides), fake_result([0.95, 0.96, 0.97, 0.96, 0.95]))
    table = tables.fill(layout, read_runs(tmp_path / "runs"), fake_name)
    folder = tmp_path / "results" / "table_1"
    folder.mkdir(parents=True)
    (folder / "cells.csv").write_text(tables.long_csv(table))
    environment = {"data_seeds": table.data_seeds, **provenance(table.runs)}
    (folder / "environment.json").write_text(json.dumps(environment))
    return tmp_path / "results"


def run(readme: Path, results: Path, *options: str) -> int:
    code = update_readme.main(["--readme", str(readme), "--results", str(results), *options])
    assert isinstance(code, int)
    return code


def test_a_block_is_filled_and_the_rest_stays(tmp_path: Path, results: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BLOCK}\n\nThe end \\1 stays.\n")
    assert run(readme, results, "--check") == 1
    assert "old" in readme.read_text()
    assert run(readme, results) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n\n<!-- table_1:begin -->\n**Table 1")
    assert text.endswith("<!-- table_1:end -->\n\nThe end \\1 stays.\n")
    assert "**95.8 ± 0.8**" in text and "96.0 ± 1.8" in text
    assert "Computed 2026-01-01 on an example CPU (cpu), torch 2.14.1, commit 0123456789" in text
    assert run(readme, results, "--check") == 0


def test_what_stands_beside_the_cells_is_shown(tmp_path: Path) -> None:
    name = "figure_5_tcga_kipan"
    layout, folder = LAYOUTS[name], tmp_path / "results" / name
    config = {"dataset": {"name": "tcga_kipan"}}
    result = fake_result([0.9] * 5, device="cuda", hardware={"cpu": "C", "gpu": "G", "threads": 2}, config=config)
    write_run(tmp_path / "runs" / fake_name(layout.cells[0].overrides), result)
    report(tmp_path / "runs", tmp_path / "report", [name], tmp_path / "results", fake_name, Console(file=io.StringIO()))
    comparisons = [Comparison("MultiModal", "SUM", 5, 1.0, 9.0, 0.001, 0.01)]
    (folder / "significance.csv").write_text(significance.to_csv(comparisons))
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- {name}:begin --><!-- {name}:end -->")
    assert run(readme, tmp_path / "results") == 0
    text = readme.read_text()
    assert "not the paper's data" in text and "| reference |" in text
    assert "alone, on G." in text and "on C, G (cuda)" in text
    assert "MultiModal is above SUM." in text
    assert f"(outputs/results/{name}/figure_5.png)" in text
    (folder / "significance.csv").write_text("first,second\na,b\n")
    assert run(readme, tmp_path / "results") == 2


def test_a_table_without_results_says_how_to_compute_it(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(BLOCK)
    assert run(readme, tmp_path / "nothing") == 0
    assert "*Not computed yet: `make reproduce-table-1`.*" in readme.read_text()


def test_a_readme_without_blocks_is_left_alone(tmp_path: Path, results: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    assert run(readme, results) == 0
    assert readme.read_text() == "nothing here\n"


@pytest.mark.parametrize("text", ["<!-- table_1:begin -->\n", "<!-- table_1:end -->\n<!-- table_1:begin -->\nmore\n"])
def test_a_block_that_does_not_end_is_refused(tmp_path: Path, results: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert run(readme, results) == 2
    assert readme.read_text() == text


def test_the_readme_shows_the_committed_results() -> None:
    assert update_readme.main(["--check"]) == 0


def test_own_predictions_are_means_over_replicates_and_say_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "table_5_tcga_brca"
    folder.mkdir()
    lines = ["method,replicate,modality,ACC", "SUM + CE,0,GE,0.5", "SUM + CE,1,GE,0.75", "SUM + CE,0,fused,0.9"]
    lines += ["MOMA DM alone,0,DM,0.25", "MOMA DM alone,1,DM,0.35", ""]
    (folder / "modalities.csv").write_text("\n".join(lines))
    rows = [line.strip("| ").split(" | ") for line in update_readme.own_predictions(tmp_path).splitlines()]
    assert len({len(row) for row in rows}) == 1
    table = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
    assert [table["SUM + CE"][f"breast {kind}"] for kind in ("GE", "DM", "fused")] == ["62.5", "missing", "90.0"]
    alone = table["Each modality trained alone"]
    assert [alone[f"breast {kind}"] for kind in ("GE", "DM", "fused")] == ["missing", "30.0", "–"]
    assert table["MultiModal, 1 proxy per class"]["kidney GE"] == "missing"
