"""Runs that no table of the paper uses: a row per run, told apart by what differs, never mixed with another split's."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from golden.fakes import fake_plan
from multimodal_loss.report import report
from multimodal_loss.reporting.analysis.best import marks
from multimodal_loss.reporting.analysis.fill import Runs, fill
from multimodal_loss.reporting.analysis.significance import compare
from multimodal_loss.reporting.layouts.own import own_layouts
from multimodal_loss.results.collect import read_runs
from multimodal_loss.results.run_directory import SCHEMA

TITLES = {"sum_ce": "SUM + CE", "nn_ce": "NN + CE", "multimodal": "MultiModal"}


def a_config(method: str, **changes: Any) -> dict[str, Any]:
    config = {
        "dataset": {"_target_": "x.TablesDataset", "path": "x", "folds": 3, "split_seed": 0, "inner_folds": None},
        "backbone": {"_target_": "x.MLP"},
        "fusion": {"_target_": f"x.{method}"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
        "trainer": {"max_epochs": 10},
        "folds": "auto",
        "profile": "full",
        "facts": {
            "dataset": {"name": "tables", "title": changes.pop("title", "trial")},
            "backbone": {"name": "mlp", "title": "MLP"},
            "method": {"name": method, "title": TITLES.get(method, method)},
        },
    }
    for key, value in changes.items():
        group, _, option = key.partition("__")
        config[group][option] = value  # type: ignore[index]
    return config


def write_run(
    folder: Path,
    name: str,
    method: str,
    accuracy: float,
    by_fold: bool = True,
    fingerprint: str = "f",
    generated: bool = False,
    data: Mapping[str, str] | None = None,
    **changes: Any,
) -> None:
    """Test accuracy as given and falling from fold to fold, validation accuracy 0.1 for all."""
    values = {"FM": 0.5, "FW": 0.5, "MCC": 0.4, "AUC": None, "AP": 0.3}
    replicates = [
        {
            "replicate_id": f,
            "fold": f if by_fold else None,
            "seconds": 1.0,
            "data_fingerprint": f"{fingerprint}{f}",
            "metrics": {
                "test": {"fused": {**values, "ACC": accuracy - 0.01 * f}, "modalities": {}},
                "validation": {"fused": {**values, "ACC": 0.1}, "modalities": {}},
            },
        }
        for f in range(3)
    ]
    sizes = {"train": 40, "validation": 0, "test": 20}
    dataset = {"name": "tables", "modalities": ["a", "b"], "inputs": ["a", "b"], "sizes": sizes, "generated": generated}
    result = {"schema": SCHEMA, "status": "done", "profile": "full", "config": a_config(method, **changes)}
    (folder / name).mkdir(parents=True)
    (folder / name / "result.json").write_text(
        json.dumps({**result, "data": data or {}, "dataset": dataset, "replicates": replicates})
    )


def reported(tmp_path: Path, *names: str, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=110)
    page = report(tmp_path / "runs", tmp_path / "report", names, plan=fake_plan, console=console, **options)
    return page.read_text()


def test_rows_are_runs_told_apart_by_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8)
    write_run(tmp_path, "b", "multimodal", 0.9)
    write_run(tmp_path, "c", "multimodal", 0.7, optimizer__lr=0.1)
    write_run(tmp_path, "d", "multimodal", 0.7, title="other")
    write_run(tmp_path, "e", "multimodal", 0.7, optimizer___target_="torch.optim.SGD", optimizer__momentum=0.9)
    other, trial = own_layouts(read_runs(tmp_path))
    assert [row.heading for row in trial.rows] == [
        "MLP, MultiModal (optimizer=Adam, optimizer.lr=0.01)",
        "MLP, MultiModal (optimizer=Adam, optimizer.lr=0.1)",
        "MLP, MultiModal (optimizer=SGD, optimizer.lr=0.01, optimizer.momentum=0.9)",
        "MLP, SUM + CE",
    ]
    assert [row.title for row in other.rows] == ["MLP, MultiModal"]
    assert (trial.name, other.title) == ("own_trial", "Your runs: other")


def test_rows_always_say_what_differs_in_their_data(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8, dataset__noisy=1)
    write_run(tmp_path, "b", "multimodal", 0.9, dataset__noisy=2)
    (table,) = own_layouts(read_runs(tmp_path))
    assert [row.heading for row in table.rows] == [
        "MLP, MultiModal (dataset.noisy=2)",
        "MLP, SUM + CE (dataset.noisy=1)",
    ]


def test_the_page_and_the_terminal_show_them_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    write_run(tmp_path / "runs", "b", "multimodal", 0.9)
    page = report(tmp_path / "runs", tmp_path / "report", plan=fake_plan).read_text()
    assert "Your runs: trial" in page
    said = capsys.readouterr().out
    assert (
        "89.0" in said
        and "3 replicates, where a cell says nothing else" in " ".join(said.split())
        and "Your runs: trial" in said
        and "Table 1" not in said
    )
    assert "b,ACC,test/fused/ACC" in (tmp_path / "report" / "own_trial.csv").read_text()


def test_a_loss_and_a_dataset_that_nobody_told_the_reports_about_show_up(tmp_path: Path) -> None:
    facts = {"dataset": {"name": "toy", "title": "Toy data"}, "method": {"name": "toy_loss", "title": "Toy <loss>"}}
    write_run(tmp_path / "runs", "toy-run", "toy_loss", 0.8)
    file = tmp_path / "runs" / "toy-run" / "result.json"
    result = json.loads(file.read_text())
    result["config"]["facts"] = facts
    file.write_text(json.dumps(result))
    text = reported(tmp_path)
    assert "Your runs: Toy data" in text and "Toy &lt;loss&gt;" in text and "79.0" in text


def test_an_interrupted_run_has_a_row_that_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    killed = tmp_path / "runs" / "b-0a1b"
    killed.mkdir()
    (killed / "config.yaml").write_text(yaml.safe_dump(a_config("multimodal")))
    (tmp_path / "runs" / "c-0a1b").mkdir()
    (tmp_path / "runs" / "c-0a1b" / "result.json").write_text("{cut")
    text = reported(tmp_path)
    assert "Your runs: trial" in text and "Your runs: unknown data" in text
    row = text[text.index("MLP, MultiModal") :].partition("</tr>")[0]
    assert row.count("interrupted</span>") == 6 and "interrupted, or still running" in text
    assert "cells are complete" in text and "18 of 18" not in text
    assert "result.json cannot be read" in text


def test_runs_of_generated_data_stand_apart_and_say_so(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8)
    write_run(tmp_path, "b", "sum_ce", 0.9, generated=True)
    real, generated = own_layouts(read_runs(tmp_path))
    assert (real.notice, generated.title) == ("", "Your runs: trial, generated data")
    assert generated.notice == "GENERATED DATA" and [row.key for row in generated.rows] == ["b"]


def test_they_are_not_saved_as_results(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    reported(tmp_path, save_results=tmp_path / "results")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]


def test_without_any_run_the_page_shows_what_table_1_lacks(tmp_path: Path) -> None:
    assert "Table 1: accuracy" in reported(tmp_path)


def test_runs_that_were_split_differently_stand_in_different_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8)
    write_run(tmp_path, "b", "multimodal", 0.9, dataset__split_seed=1)
    write_run(tmp_path, "c", "nn_ce", 0.9, dataset__folds=10)
    write_run(tmp_path, "d", "nn_ce", 0.9, title="other")
    write_run(tmp_path, "e", "nn_ce", 0.9, dataset__corrupt="noisy")
    write_run(tmp_path, "f", "nn_ce", 0.9, dataset__repeats=3)
    layouts = own_layouts(read_runs(tmp_path))
    assert [(table.title, [row.key for row in table.rows]) for table in layouts] == [
        ("Your runs: other", ["d"]),
        ("Your runs: trial, dataset.folds=10, dataset.split_seed=0", ["c"]),
        ("Your runs: trial, dataset.folds=3, dataset.repeats=3, dataset.split_seed=0", ["f"]),
        ("Your runs: trial, dataset.folds=3, dataset.split_seed=0", ["a"]),
        ("Your runs: trial, dataset.folds=3, dataset.split_seed=0, dataset.corrupt=noisy", ["e"]),
        ("Your runs: trial, dataset.folds=3, dataset.split_seed=1", ["b"]),
    ]
    assert len({table.name for table in layouts}) == 6


def test_tables_whose_titles_differ_in_signs_alone_are_files_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8, dataset__path="study-1")
    write_run(tmp_path, "b", "sum_ce", 0.9, dataset__path="study_1")
    first, second = own_layouts(read_runs(tmp_path))
    assert first.name != second.name and first.conditions[0].key == first.name


def test_scores_of_inner_folds_are_never_called_test_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    write_run(tmp_path / "runs", "b", "multimodal", 0.9, dataset__inner_folds=3, dataset__inner_fold=0)
    write_run(tmp_path / "runs", "c", "multimodal", 0.9, dataset__inner_folds=3, dataset__inner_fold=1)
    test, inner = own_layouts(read_runs(tmp_path / "runs"))
    assert ([row.key for row in test.rows], test.title) == (["a"], "Your runs: trial")
    assert ([row.key for row in inner.rows], inner.title) == (["b", "c"], "Your runs: trial, inner folds")
    assert "no test scores" in inner.description and not inner.conditions and not inner.compared
    reported(tmp_path)
    (written,) = (tmp_path / "report").glob("own_trial_inner_folds*.csv")
    assert "b,ACC,validation/fused/ACC,,,10," in written.read_text()
    assert "inner" not in (tmp_path / "report" / "own_trial.md").read_text()


def test_runs_are_compared_over_folds_of_the_same_samples(tmp_path: Path) -> None:
    for name, method, fingerprint in (("a", "sum_ce", "f"), ("b", "multimodal", "f"), ("c", "nn_ce", "changed")):
        write_run(tmp_path, name, method, 0.8, fingerprint=fingerprint)
    (layout,) = own_layouts(runs := read_runs(tmp_path))
    found = compare(fill(layout, Runs(runs, fake_plan)))
    assert [(one.first, one.second, one.folds) for one in found] == [("MLP, MultiModal", "MLP, SUM + CE", 3)]
    assert "compared over the folds in which both have the same test samples" in layout.description
    path = tmp_path / "c" / "result.json"  # as good on one fold and worse on the others: in pairs that could be chance
    path.write_text(path.read_text().replace("0.78", "0.7").replace("0.79", "0.75"))
    (layout,) = own_layouts(runs := read_runs(tmp_path))
    tied = marks(fill(layout, Runs(runs, fake_plan)))
    assert {row for row, column in tied if column == "ACC"} == {"a", "b"}  # of c no test says anything


def test_runs_of_before_and_after_a_file_changed_are_not_compared(tmp_path: Path) -> None:
    for name, method, read in (("a", "sum_ce", "before"), ("b", "multimodal", "after"), ("c", "nn_ce", "after")):
        write_run(tmp_path, name, method, 0.8, data={"fingerprint": read})
    after, before = own_layouts(read_runs(tmp_path))
    assert [(one.title, [row.key for row in one.rows]) for one in (after, before)] == [
        ("Your runs: trial, files after", ["b", "c"]),
        ("Your runs: trial, files before", ["a"]),
    ]
    # Runs on other modalities read other files by their settings, and are of the same samples.
    write_run(tmp_path / "other", "a", "sum_ce", 0.8, data={"fingerprint": "one"}, dataset__modalities=["a"])
    write_run(tmp_path / "other", "b", "nn_ce", 0.8, data={"fingerprint": "both"})
    (together,) = own_layouts(read_runs(tmp_path / "other"))
    assert together.title == "Your runs: trial" and len(together.rows) == 2


def test_what_no_training_can_fill_is_not_asked_for(tmp_path: Path) -> None:
    """A metric that is undefined in a fold: the run has ended."""
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    file = tmp_path / "runs" / "a" / "result.json"
    result = json.loads(file.read_text())
    for number, replicate in enumerate(result["replicates"]):
        replicate["metrics"]["test"]["fused"]["AUC"] = None if number == 1 else 0.9
    file.write_text(json.dumps(result))
    text = io.StringIO()
    report(tmp_path / "runs", tmp_path / "report", plan=fake_plan, console=Console(file=text, width=110))
    said = " ".join(text.getvalue().split())
    assert "undefined in replicate 1, whose test part lacks a class, say" in said and "To fill" not in said


def test_seeds_of_one_fixed_split_are_not_compared_as_folds(tmp_path: Path) -> None:
    """`folds: auto` stands in the config of every run on tables, of those with a fixed split too."""
    write_run(tmp_path, "a", "sum_ce", 0.8, by_fold=False)
    write_run(tmp_path, "b", "multimodal", 0.9, by_fold=False)
    (layout,) = own_layouts(read_runs(tmp_path))
    assert layout.compared == "" and "compared" not in layout.description


def test_a_sweep_is_drawn_against_its_number_with_the_run_that_another_table_has(tmp_path: Path) -> None:
    """On an axis by the values' span; runs of other settings, and unfinished ones, are no part of it."""
    for k, accuracy in ((1, 0.7), (5, 0.8), (20, 0.9)):
        write_run(tmp_path, f"k{k}", "multimodal", accuracy, fusion__proxies_per_class=k)
    write_run(tmp_path, "other", "multimodal", 0.5, fusion__proxies_per_class=50, optimizer__lr=0.5)
    write_run(tmp_path, "sum", "sum_ce", 0.5)
    runs = Runs(read_runs(tmp_path), fake_plan)
    (layout,) = own_layouts(runs.all, used={"k20", "sum"})
    assert {row.key for row in layout.rows} == {"k1", "k5", "k20", "other"}
    (picture,) = (picture for draw in layout.pictures for picture in draw(fill(layout, runs)))
    (ax,) = picture.figure.axes
    (line,) = [one for one in ax.lines if one.get_label().startswith("ours")]
    assert list(line.get_xdata()) == [1, 5, 20] and list(line.get_ydata()) == pytest.approx([69, 79, 89])
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "fusion.proxies_per_class"
    assert "fusion.proxies_per_class: 1 69.0, 5 79.0, 20 89.0" in picture.alt
    assert own_layouts(runs.all, used={run.name for run in runs.all}) == []


def test_two_values_are_no_sweep(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        write_run(tmp_path, f"lr{lr}", "multimodal", 0.7, optimizer__lr=lr)
    runs = Runs(read_runs(tmp_path), fake_plan)
    (layout,) = own_layouts(runs.all)
    assert [picture for draw in layout.pictures for picture in draw(fill(layout, runs))] == []
