"""A table whose runs are on several machines: what each saves leaves what the others saved as it was."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from golden.fakes import fake_name, fake_plan, fake_predictions, fake_result, fake_runs, write_run
from multimodal_loss.report import report
from multimodal_loss.reporting.analysis.fill import fill
from multimodal_loss.reporting.analysis.provenance import provenance
from multimodal_loss.reporting.analysis.significance import compare
from multimodal_loss.reporting.figures.base import stored_plate
from multimodal_loss.reporting.formats.cells_csv import cells_csv
from multimodal_loss.reporting.formats.saved import with_list
from multimodal_loss.reporting.layouts import all_layouts

LAYOUTS = all_layouts()


class Machines:
    """Each has a folder of runs, whose results are saved into one of all."""

    def __init__(self, folder: Path, table: str) -> None:
        self.folder, self.layout = folder, LAYOUTS[table]
        self.saved = folder / "results" / table
        self.of_row = {cell.row: cell.run for cell in reversed(self.layout.cells)}

    def run(self, machine: str, which: Sequence[str], accuracies: Sequence[float], **changes: Any) -> Path:
        return write_run(self.folder / machine / fake_name(which), fake_result(accuracies, **changes))

    def fold_run(self, machine: str, row: str, accuracies: Sequence[float], **more: Any) -> None:
        result = fake_result(accuracies, modalities=("GE", "DM"))
        for fold, replicate in enumerate(result["replicates"]):
            replicate |= {"fold": fold, **more}
        result["dataset"] |= {"name": self.layout.dataset, "sizes": {"train": 80, "test": 20}}
        result["config"]["facts"]["dataset"]["name"] = self.layout.dataset
        result["hardware"]["cpu"] = f"the processor of {machine}"
        write_run(self.folder / machine / fake_name(self.of_row[row]), result)

    def save(self, machine: str) -> dict[str, str]:
        """The values of the cells that have some, by row and column."""
        console = Console(file=io.StringIO(), width=110)
        results = self.saved.parent
        report(self.folder / machine, self.folder / "report", [self.layout.name], results, fake_plan, console)
        lines = csv.DictReader((self.saved / "cells.csv").read_text().splitlines())
        return {f"{line['row']} {line['column']}": line["values"] for line in lines if line["mean"]}

    @property
    def counted(self) -> list[int]:
        """How many runs each environment is of, the latest first."""
        environment = json.loads((self.saved / "environment.json").read_text())
        return [one["runs"] for one in (environment, *environment.get("earlier", []))]


def test_a_run_that_failed_here_or_has_less_does_not_erase_what_is_committed(tmp_path: Path) -> None:
    machines = Machines(tmp_path, "table_1_readings")
    whole, part, other = (cell.run for cell in machines.layout.cells[:3])
    machines.run("one", whole, [0.9] * 5)
    machines.run("one", part, [0.9] * 4)
    before = machines.save("one")
    assert sorted(before.values()) == ["90;90;90;90;", "90;90;90;90;90"]
    machines.run("two", whole, [], status="failed", error="out of memory")
    machines.run("two", part, [0.5])
    machines.run("two", other, [0.8] * 5)
    after = machines.save("two")
    assert before.items() < after.items() and len(after) == 3
    assert machines.counted == [1, 2]


def test_what_failed_runs_have_is_saved_anew_each_time(tmp_path: Path) -> None:
    machines = Machines(tmp_path, "table_1_readings")
    whole, failing = (cell.run for cell in machines.layout.cells[:2])
    machines.run("one", whole, [0.9] * 5)
    for accuracies in ([0.8] * 2, [0.8] * 2, [0.7] * 4, [0.6] * 4):
        machines.run("one", failing, accuracies, status="failed", error="out of memory")
        assert ";".join(f"{100 * value:g}" for value in accuracies) in "".join(machines.save("one").values())
        assert machines.counted == [2]


def test_runs_are_counted_once_while_a_folder_grows(tmp_path: Path) -> None:
    machines = Machines(tmp_path, "table_1_readings")
    machines.run("one", machines.layout.cells[0].run, [0.9] * 5, ended="2026-01-09T10:05:00+00:00")
    machines.run("two", machines.layout.cells[1].run, [0.7] * 5)
    environment = machines.saved / "environment.json"
    for machine in ("one", "two", "two"):
        machines.save(machine)
        environment.write_text(re.sub(r' *"hashes": .*\n', "", environment.read_text()))  # as it was written before
    assert machines.counted == [1, 1]
    for number in (1, 2, 3):
        machines.run("two", machines.layout.cells[number].run, [0.7] * 5, ended=f"2026-01-0{number}T10:05:00+00:00")
        machines.save("two")
        assert machines.counted == [number, 1]
    for number in (1, 2, 3):
        machines.run("one", machines.layout.cells[number].run, [0.7] * 5)
    machines.save("one")
    assert machines.counted == [4]


def test_kept_rows_are_compared_with_new_ones_and_their_times_named(tmp_path: Path) -> None:
    """By their committed values, as if all runs were here."""
    machines = Machines(tmp_path, "table_5_tcga_brca")
    accuracies = {"sum_ce": [0.801, 0.812, 0.82, 0.793, 0.8], "mulmix": [0.9, 0.91, 0.93, 0.9, 0.91]}
    for row, values in accuracies.items():
        machines.fold_run("one", row, values)
    machines.fold_run("one", "multimodal", [0.7, 0.71, 0.7, 0.72, 0.7])
    machines.save("one")
    again = [0.951, 0.96, 0.97, 0.94, 0.95]
    machines.fold_run("two", "multimodal", again)
    machines.save("two")
    for row, values in {**accuracies, "multimodal": again}.items():
        machines.fold_run("all", row, values)
    together = compare(fill(machines.layout, fake_runs(tmp_path / "all")))
    lines = list(csv.DictReader((machines.saved / "significance.csv").read_text().splitlines()))
    assert len(lines) == len(together) == 3
    for line, expected in zip(lines, together, strict=True):
        assert (line["first"], line["second"]) == (expected.first, expected.second)
        assert float(line["p_holm"]) == pytest.approx(expected.p_holm, rel=1e-5)
    text = (machines.saved / "README.md").read_text()
    assert "MultiModal is above SUM + CE; Mulmix." in text
    said = "alone, on the processor of two (1 thread), the processor of one (1 thread)."
    assert said in text and said in (tmp_path / "report" / "index.html").read_text()


def test_choices_of_kept_rows_stay(tmp_path: Path) -> None:
    machines = Machines(tmp_path, "table_7_digits")
    trial = {"values": {"optimizer.lr": 0.01}, "score": 0.1, "accuracy": 0.9, "epochs": 7, "temperature": 1.0}
    tuning = {"chosen": trial["values"], "trials": [trial]}
    rows = [row.key for row in machines.layout.rows if row.key in machines.of_row][:3]
    for machine, row in zip(("one", "two", "one"), (rows[0], rows[1], rows[2]), strict=True):
        machines.fold_run(machine, row, [0.9] * 5, tuning=tuning)
    machines.save("one")
    machines.save("two")
    lines = csv.DictReader((machines.saved / "chosen.csv").read_text().splitlines())
    assert list(dict.fromkeys(line["row"] for line in lines)) == rows


def test_a_picture_of_runs_that_are_elsewhere_stays(tmp_path: Path) -> None:
    machines = Machines(tmp_path, "table_1")
    runs = {cell.column: cell.run for cell in machines.layout.cells if cell.row == "noisy_modalities=0"}
    for machine, column in (("one", "sum_ce"), ("one", "mulmix"), ("two", "multimodal"), ("all", "sum_ce")):
        place = machines.run(machine, runs[column], [0.9] * 2)
        np.savez(place / "predictions.npz", **fake_predictions([[0.9] * 4] * 2))
    machines.save("one")
    picture = machines.saved / "figure_4_noisy_modalities_0.png"
    before, overview = picture.read_bytes(), (machines.saved / "overview.png").read_bytes()
    machines.save("two")
    machines.run("two", runs["nn_ce"], [0.9] * 2)  # stored no predictions
    machines.save("two")
    assert picture.read_bytes() == before and (machines.saved / "overview.png").read_bytes() != overview
    for column in ("mulmix", "nn_ce"):
        np.savez(machines.run("all", runs[column], [0.9] * 2) / "predictions.npz", **fake_predictions([[0.9] * 4] * 2))
    machines.save("all")  # all that the picture shows, and more; MultiModal's is not here
    assert picture.read_bytes() != before and "MultiModal" not in stored_plate(picture).alt


def test_the_papers_own_table_stands_beside_those_on_other_data(tmp_path: Path) -> None:
    for name in ("table_5", "table_5_tcga_brca", "table_7", "table_7_digits"):
        machines = Machines(tmp_path / name, name)
        machines.fold_run("one", next(iter(machines.of_row)), [0.9] * 5)
        table = fill(machines.layout, fake_runs(tmp_path / name / "one"))
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        (folder / "cells.csv").write_text(cells_csv(table))
        (folder / "environment.json").write_text(json.dumps(provenance(table.runs)))
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    listed = with_list(f"{begin}\n{end}", tmp_path / "results", LAYOUTS, "results")
    linked = [name for name in LAYOUTS if f"(results/{name}/README.md)" in listed]
    assert linked == ["table_5", "table_5_tcga_brca", "table_7"]


def test_local_changes_are_told(tmp_path: Path) -> None:
    machines = Machines(tmp_path, "table_1_readings")
    git = {"sha": "0123456789" * 4, "dirty": True}
    machines.run("one", machines.layout.cells[0].run, [0.9] * 5, git=git)
    machines.save("one")
    assert "commit 0123456789 (with local changes); 1 runs" in (machines.saved / "README.md").read_text()


def test_a_committed_cell_and_one_of_a_run_here_are_equal_to_the_last_digit(tmp_path: Path) -> None:
    """Thirds have more digits than are committed; ties must not hang on them."""
    machines = Machines(tmp_path, "table_5_tcga_brca")
    for machine, row in (("one", "sum_ce"), ("two", "multimodal")):
        machines.fold_run(machine, row, [0.8 + 1 / 30, 0.8 + 1 / 60, 0.9 + 1 / 70, 0.9, 0.8])
        machines.save(machine)
    (line,) = csv.DictReader((machines.saved / "significance.csv").read_text().splitlines())
    assert (float(line["difference"]), float(line["p"])) == (0, 1)
    assert (machines.saved / "README.md").read_text().count(" \u2605**") == 2
