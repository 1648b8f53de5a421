"""The expected cells: all there, each with the paper's number, found without a list; and nothing else knows names."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_loss.configuration import CONFIG_DIR, planned_run
from multimodal_loss.reporting import layouts as package
from multimodal_loss.reporting.analysis.paper import paper_numbers
from multimodal_loss.reporting.layouts import all_layouts

LAYOUTS = all_layouts()
PACKAGE = Path(package.__file__).parents[2]
TOY = """
from multimodal_loss.reporting.layouts.base import Cell, Column, Layout, Row
from multimodal_loss.reporting.layouts.conf import method_title, swept

def layouts():
    methods = swept("table_1_data_seeds", "method")
    rows = tuple(Row(m, method_title(m)) for m in methods)
    cells = tuple(Cell(m, "ACC", ("experiment=table_1_data_seeds", f"method={m}")) for m in methods)
    return [Layout("toy", "A toy", "", "make toy", rows, (Column("ACC", "ACC"),), cells)]
"""


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("table_1", 27),
        ("appendix_b", 28),
        ("table_1_data_seeds", 36),
        ("table_1_readings", 30),
        ("table_1_fair", 48),
        ("quick", 10),
    ],
)
def test_every_place_of_a_table_is_expected_once(name: str, cells: int) -> None:
    layout = LAYOUTS[name]
    places = [(cell.row, cell.column) for cell in layout.cells]
    assert len(places) == len(set(places)) == cells
    assert set(places) == {(row.key, column.key) for row in layout.rows for column in layout.columns}
    runs = [run for cell in layout.cells if not cell.minus for run in cell.runs]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize(
    ("name", "replicates", "runs"),
    [
        ("table_1", range(5), 27),
        ("table_1_fair", range(3), 200),
        ("quick_table_3", range(1), 8),
        ("table_5_tcga_kipan", range(5), 13),
        ("figure_5_tcga_kipan", range(5), 7),
    ],
)
def test_the_cells_compose_to_as_many_runs(name: str, replicates: range, runs: int) -> None:
    layout = LAYOUTS[name]
    planned = [planned_run(run) for run in dict.fromkeys(run for cell in layout.cells for run in cell.runs)]
    assert len({one.hash for one in planned}) == runs
    assert {one.replicates for one in planned} == {tuple(replicates)}
    assert {one.facts["dataset"]["name"] for one in planned} == {layout.dataset}


def test_tables_share_the_runs_that_are_the_same() -> None:
    places = (("table_5", "multimodal"), ("table_6", "multimodal"), ("figure_5", "proxies_per_class=20"))
    layouts = [(LAYOUTS[f"{table}_tcga_kipan"], row) for table, row in places]
    runs = [next(cell.run for cell in layout.cells if cell.row == row) for layout, row in layouts]
    assert len({planned_run(run).hash for run in runs}) == 1


def test_table_1_and_appendix_b_show_every_number_of_the_paper() -> None:
    for name, table in (("table_1", "1"), ("appendix_b", "B1")):
        keys = {cell.paper for cell in LAYOUTS[name].cells}
        assert keys == {key for key in paper_numbers() if key[0] == table}


def test_conditions_show_runs_of_the_table() -> None:
    for layout in LAYOUTS.values():
        known = {cell.run for cell in layout.cells}
        assert {shown.run for condition in layout.conditions for shown in condition.shown} <= known


def test_the_papers_numbers() -> None:
    numbers = paper_numbers()
    best = numbers["1", "noise_modalities=2", "multimodal/ACC"]
    assert (best.mean, best.sd, best.note) == (86.4, 0.7, "")
    unstated = numbers["B1", "proxy_anchor", "lr=5e-6"]
    assert (unstated.mean, unstated.sd) == (None, None)
    assert unstated.note == "did not converge in 100,000 iterations"


def test_the_quick_profile_says_what_it_is_not() -> None:
    layout = LAYOUTS["quick"]
    assert layout.title == "QUICK PROFILE: reduced data, not Table 1"
    assert layout.profile == "quick" and all(cell.paper is None for cell in layout.cells)


def test_a_table_is_a_module_that_nothing_else_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_table.py").write_text(TOY)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    all_layouts.cache_clear()
    try:
        found = all_layouts()
    finally:
        all_layouts.cache_clear()
        sys.modules.pop(f"{package.__name__}.toy_table", None)
    assert [row.title for row in found["toy"].rows] == ["SUM + CE", "NN + CE", "MultiModal"]
    assert found.keys() - {"toy"} == LAYOUTS.keys() and next(iter(found)) == "table_1"


def test_tables_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from multimodal_loss.reporting.layouts import synthetic

    monkeypatch.setattr(synthetic, "layouts", lambda: [synthetic.table_1()] * 2)
    all_layouts.cache_clear()
    with pytest.raises(ValueError, match="tables share a name: table_1"):
        all_layouts()


GROUPS = ("dataset", "backbone", "fusion", "method")


def test_generic_code_knows_no_dataset_backbone_method_or_table_by_name() -> None:
    groups = {group: [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")] for group in GROUPS}
    names = {name for files in groups.values() for name in files} | LAYOUTS.keys() - {"quick"}  # which is a profile too
    assert {"synthetic", "moma", "sum_ce", "late_mulmix", "table_1"} <= names
    chosen = re.compile("|".join(rf"\b{group}=({'|'.join(files)})\b" for group, files in groups.items()))
    files = [PACKAGE / "report.py", *(PACKAGE / "results").glob("*.py")]
    files += [path for part in ("formats", "figures", "analysis") for path in (PACKAGE / "reporting" / part).glob("*")]
    assert len(files) > 15
    for file in files:
        text = file.read_text() if file.is_file() else ""
        nodes = ast.walk(ast.parse(text)) if file.suffix == ".py" else ()
        strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not names & strings, file
        assert not chosen.search(text), file


def test_the_report_loads_no_training_code_and_leaves_pyplot_alone() -> None:
    code = "import sys, multimodal_loss.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "multimodal_loss.reporting.figures.base" in loaded
    assert not [
        name for name in loaded if name.startswith(("multimodal_loss.training", "matplotlib.pyplot", "hydra", "umap"))
    ]
