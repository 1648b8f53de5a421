"""The committed results: READMEs come from the files beside them and from nothing else; what people wrote is kept."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from golden.fakes import fake_facts, fake_name, fake_plan, fake_result, fake_runs, write_run
from multimodal_loss.errors import UserError
from multimodal_loss.report import main, report
from multimodal_loss.reporting.analysis import significance
from multimodal_loss.reporting.analysis.fill import fill
from multimodal_loss.reporting.analysis.provenance import provenance
from multimodal_loss.reporting.analysis.significance import Comparison
from multimodal_loss.reporting.formats.cells_csv import cells_csv
from multimodal_loss.reporting.formats.saved import choices, own_predictions, own_verdict, readmes, with_list
from multimodal_loss.reporting.layouts import all_layouts

LAYOUTS = all_layouts()
COMMITTED = Path(__file__).parents[1] / "outputs" / "results"
BLOCK = "<!-- results:begin -->\nold\n<!-- results:end -->"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Saved results of a Table 1 with one filled cell."""
    layout = LAYOUTS["table_1"]
    write_run(tmp_path / "runs" / fake_name(layout.cells[8].run), fake_result([0.95, 0.96, 0.97, 0.96, 0.95]))
    table = fill(layout, fake_runs(tmp_path / "runs"))
    folder = tmp_path / "results" / "table_1"
    folder.mkdir(parents=True)
    (folder / "cells.csv").write_text(cells_csv(table))
    (folder / "environment.json").write_text(json.dumps(provenance(table.runs)))
    return tmp_path / "results"


def written(results: Path) -> dict[str, str]:
    return {path.parent.name: text for path, text in readmes(results, LAYOUTS)}


def test_the_committed_readmes_show_the_committed_cells() -> None:
    """After a change of what they say: make save-results."""
    for path, text in readmes(COMMITTED, LAYOUTS):
        assert path.read_text() == text, path


def test_every_linked_file_of_the_committed_readmes_exists() -> None:
    for path in COMMITTED.rglob("README.md"):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
        assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []


def test_a_readme_has_the_table_where_it_comes_from_and_what_was_written(results: Path) -> None:
    readme = results / "table_1" / "README.md"
    readme.write_text("# Old\n<!-- notes:begin -->\nWritten by hand, \\1 too.\n<!-- notes:end -->\n")
    text = written(results)["table_1"]
    assert text.startswith("# Table 1: accuracy on the synthetic data\n\n")
    assert "\n`make reproduce-table-1`\n" in text
    assert "| 95.8 ± 0.8<br>" in text and "96.0 ± 1.8" in text and "1 of 27 cells" in text and "# Old" not in text
    assert "Computed 2026-01-01 on an example CPU (cpu), torch 2.14.1, commit 0123456789" in text
    assert text.endswith("<!-- notes:begin -->\nWritten by hand, \\1 too.\n<!-- notes:end -->\n")
    readme.write_text(text)
    assert written(results)["table_1"] == text


def test_the_list_names_every_full_table_and_its_state(results: Path) -> None:
    text = written(results)["results"]
    assert "| [Table 1: accuracy on the synthetic data](table_1/README.md) | Synthetic data | 1 of 27 cells |" in text
    assert "| Appendix B: learning rates | Synthetic data | not computed yet | `make " in text
    assert "QUICK" not in text


def test_what_stands_beside_the_cells_is_shown(tmp_path: Path) -> None:
    name = "figure_5_tcga_kipan"
    layout, folder = LAYOUTS[name], tmp_path / "results" / name
    config = {"facts": fake_facts("tcga_kipan")}
    result = fake_result([0.9] * 5, device="cuda", hardware={"cpu": "C", "gpu": "G", "threads": 2}, config=config)
    write_run(tmp_path / "runs" / fake_name(layout.cells[0].run), result)
    console = Console(file=io.StringIO())
    readme = tmp_path / "README.md"
    readme.write_text(f"# A title\n\n{BLOCK}\n\nThe end \\1 stays.\n")
    report(tmp_path / "runs", tmp_path / "report", [name], tmp_path / "results", fake_plan, console, readme)
    assert readme.read_text().startswith("# A title\n\n<!-- results:begin -->\n| Table |")
    assert f"(results/{name}/README.md)" in readme.read_text() and "The end \\1 stays.\n" in readme.read_text()
    comparisons = [Comparison("MultiModal", "SUM", 5, 1.0, 9.0, 0.001, 0.01)]
    (folder / "significance.csv").write_text(significance.to_csv(comparisons))
    text = written(tmp_path / "results")[name]
    assert "not the paper's data" in text and "<br>reference " in text
    assert "alone, on G." in text and "on C, G (cuda)" in text
    assert "MultiModal is above SUM." in text and "(figure_5.png)" in text
    (folder / "significance.csv").write_text("first,second\na,b\n")
    with pytest.raises(UserError, match="cannot read the results in"):
        written(tmp_path / "results")


def test_saving_without_any_run_writes_the_readmes_anew(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (results / "table_1" / "cells.csv").read_text()
    options = ["--runs", str(tmp_path / "none"), "--output", str(tmp_path / "report"), "--save-results", str(results)]
    assert main(options) == 0
    assert (results / "table_1" / "README.md").exists() and (results / "README.md").exists()
    assert (results / "table_1" / "cells.csv").read_text() == before
    (tmp_path / "README.md").write_text("no list here")
    assert main([*options, "--readme", str(tmp_path / "README.md")]) == 2
    assert "lacks <!-- results:begin -->" in capsys.readouterr().err


def test_a_table_that_is_only_written_about_says_how_to_compute_it(tmp_path: Path) -> None:
    (tmp_path / "table_3").mkdir()
    (tmp_path / "table_3" / "README.md").write_text("<!-- notes:begin -->\nOpen choices.\n<!-- notes:end -->")
    text = written(tmp_path)["table_3"]
    assert "Not computed yet: `make reproduce-table-3`." in text and "Open choices." in text


def test_notes_that_do_not_end_are_refused(results: Path) -> None:
    (results / "table_1" / "README.md").write_text("<!-- notes:begin -->\nmuch work\n")
    with pytest.raises(UserError, match="without <!-- notes:end -->"):
        written(results)


@pytest.mark.parametrize("text", ["", "<!-- results:begin -->\n", "<!-- results:end -->\n<!-- results:begin -->\n"])
def test_a_readme_without_both_markers_is_refused(results: Path, text: str) -> None:
    with pytest.raises(UserError, match="lacks"):
        with_list(text, results, LAYOUTS, "outputs/results")


@pytest.mark.parametrize("damage", ["cells.csv", "environment.json"])
def test_damaged_results_are_named(results: Path, damage: str) -> None:
    (results / "table_1" / damage).write_text("{")
    with pytest.raises(UserError, match="cannot read the results in"):
        written(results)


def test_a_table_that_belongs_to_another_is_not_in_the_list() -> None:
    listed = with_list(BLOCK, COMMITTED, LAYOUTS, "results")
    assert "(results/table_7/README.md)" in listed and "(results/table_5_tcga_brca/README.md)" in listed
    assert (COMMITTED / "table_7_digits" / "cells.csv").exists() and "table_7_digits" not in listed


def test_what_was_chosen_is_counted() -> None:
    text = (
        "row,replicate_id,chosen,NLL,ACC,epochs,temperature,trials\n"
        'a,0,"optimizer.lr=0.01, backbone.hidden=[64, 32]",0.1,0.9,7,1,8\n'
        'a,1,"optimizer.lr=0.01, backbone.hidden=[]",0.1,0.9,100,1,8\n'
        "b,0,,0.1,0.9,0,1,1\n"
    )
    table = choices(text, {"a": "Method_A"})
    assert table.splitlines()[2:] == [r"| Method\_A | lr 0.01 (2); hidden \[64, 32\] (1), \[\] (1) | 53.5 | 7 to 100 |"]


def test_own_predictions_are_means_over_replicates() -> None:
    lines = ["condition,method,replicate,modality,ACC", "c,SUM + CE,0,GE,0.5", "c,SUM + CE,1,GE,0.75"]
    lines += ["c,SUM + CE,0,fused,0.9", "c,MOMA DM alone,0,DM,0.25", "c,MOMA DM alone,1,DM,0.35"]
    rows = [line.strip("| ").split(" | ") for line in own_predictions("\n".join(lines)).splitlines()]
    table = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows if row[0][0] != ":"}
    assert [table["SUM + CE"][kind] for kind in ("GE", "DM", "fused")] == ["62.5", "–", "90.0"]
    assert [table["MOMA DM alone"][kind] for kind in ("GE", "DM", "fused")] == ["–", "30.0", "–"]
    assert own_predictions("condition,method,replicate,modality,ACC\nc,A,0,joint,0.5") == ""


def test_own_predictions_before_and_after_the_read_out() -> None:
    """Inverted labels count as lost before it and not after; only replicates that are there alone are counted."""
    inside = {("softmax", 0): 0.13, ("softmax", 1): 0.86, ("read-out", 0): 0.87, ("read-out", 1): 0.83}
    lines = ["condition,method,replicate_id,modality,prediction,ACC"]
    lines += [f"c,MultiModal,{one},m1,{kind},{value}" for (kind, one), value in inside.items()]
    lines += ["c,MultiModal,0,m2,softmax,0.2", "c,MultiModal,0,m2,read-out,0.9", "c,MultiModal,0,fused,,0.9"]
    lines += ["c,SUM,0,m1,softmax,0.80", "c,SUM,0,m1,read-out,0.84", "c,Old,0,m1,softmax,0.1", "c,Old,0,fused,,0.9"]
    lines += ["c,SUM,0,fused,,0.9", "d,SUM,0,m1,softmax,0.1", "d,SUM,0,m1,read-out,0.1"]
    assert own_verdict("\n".join(lines)) == ""
    lines += ["c,Unimodal m1,0,m1,softmax,0.86", "c,Unimodal m1,1,m1,softmax,0.87"]
    text = "\n".join(lines)
    assert "read out of them: MultiModal 1 and 0 of 2; SUM 1 and 0 of 1." in own_verdict(text)
    table = own_predictions(text)
    assert "| MultiModal (c) | 49.5 / 85.0 | 20.0 / 90.0 | 90.0 |" in table
    assert "| Old (c) | 10.0 | – | 90.0 |" in table


def test_own_predictions_are_kept_where_the_cells_are(tmp_path: Path) -> None:
    layout, results = LAYOUTS["table_1"], tmp_path / "results"
    runs = {cell.column: cell.run for cell in layout.cells if cell.row == "noisy_modalities=0"}

    def save(*columns: str) -> set[str]:
        folder = tmp_path / "_".join(columns)
        for column in columns:
            write_run(folder / fake_name(runs[column]), fake_result([0.9] * 5))
        console = Console(file=io.StringIO(), width=110)
        report(folder, tmp_path / "report", [layout.name], results, plan=fake_plan, console=console)
        lines = csv.DictReader((results / layout.name / "modalities.csv").read_text().splitlines())
        return {line["method"] for line in lines}

    assert save("sum_ce", "mulmix") == {"SUM + CE", "Mulmix"}
    file = results / layout.name / "cells.csv"
    file.write_text(file.read_text().replace(fake_plan(runs["mulmix"]).hash, "0123456789"))
    assert save("multimodal") == {"SUM + CE", "MultiModal"}


def test_cells_that_have_no_run_here_are_kept_as_long_as_they_are_of_the_same_run(tmp_path: Path) -> None:
    """A table that takes days may be computed on several machines, each with some of the runs."""
    layout, results = LAYOUTS["table_1_readings"], tmp_path / "results"
    first, second, third, unnamed = layout.cells[:4]

    def save(runs: str) -> dict[tuple[str, str], str]:
        console = Console(file=io.StringIO(), width=110)
        report(tmp_path / runs, tmp_path / "report", [layout.name], results, plan=fake_plan, console=console)
        lines = csv.DictReader((results / layout.name / "cells.csv").read_text().splitlines())
        return {(line["row"], line["column"]): line["values"] for line in lines if line["state"] == "complete"}

    for cell in (first, second, unnamed):
        write_run(tmp_path / "one" / fake_name(cell.run), fake_result([0.9, 0.9, 0.9, 0.9, 0.8]))
    save("one")
    csv_file = results / layout.name / "cells.csv"
    text = csv_file.read_text().replace(fake_plan(unnamed.run).hash, "")
    csv_file.write_text(text.replace(fake_plan(second.run).hash, "0123456789"))
    write_run(tmp_path / "two" / fake_name(third.run), fake_result([0.7] * 5))
    kept = save("two")
    places = [(cell.row, cell.column) for cell in (first, third, unnamed)]
    assert kept == dict(zip(places, ["90;90;90;90;80", "70;70;70;70;70", "90;90;90;90;80"], strict=True))
    assert csv_file.read_text().count("by earlier code") == 1
    environment = json.loads((results / layout.name / "environment.json").read_text())
    assert (environment["runs"], [one["runs"] for one in environment["earlier"]]) == (1, [3])
    assert (results / layout.name / "README.md").read_text().count("Computed ") == 2
    assert save("two") == kept
    assert json.loads((results / layout.name / "environment.json").read_text()) == environment
    (tmp_path / "none").mkdir()
    assert save("none") == kept
    assert json.loads((results / layout.name / "environment.json").read_text()) == environment
