"""A person's own tables: a row per run, told apart by what differs, never mixed with the paper's or another split's."""

import json
from pathlib import Path
from typing import Any

import pytest
from multimodal_loss.reporting.layouts_own import own_layouts

from multimodal_loss.report import report
from multimodal_loss.reporting import tables
from multimodal_loss.reporting.analysis.significance import compare
from multimodal_loss.results.collect import read_runs


def write_run(
    folder: Path, name: str, fusion: str, accuracy: float, by_fold: bool = True, fingerprint: str = "f", **changes: Any
) -> None:
    """Test accuracy as given and falling from fold to fold, validation accuracy 0.1 for all."""
    values = {"FM": 0.5, "FW": 0.5, "MCC": 0.4, "AUC": None, "AP": 0.3}
    config = {
        "dataset": {"name": "tables", "label": "trial", "path": "x", "folds": 3, "split_seed": 0, "inner_folds": None},
        "backbone": {"name": "mlp"},
        "fusion": {"name": fusion},
        "trainer": {"lr": 0.01},
        "folds": "auto",
    }
    for key, value in changes.items():
        group, _, option = key.partition("__")
        config[group][option] = value  # type: ignore[index]
    replicates = [
        {
            "replicate": f,
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
    dataset = {"name": "tables", "modalities": ["a", "b"], "sizes": {"train": 40, "validation": 0, "test": 20}}
    result = {"schema": 1, "status": "done", "profile": "full", "config": config, "dataset": dataset}
    (folder / name).mkdir(parents=True)
    (folder / name / "result.json").write_text(json.dumps({**result, "replicates": replicates}))


def test_rows_are_runs_told_apart_by_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8)
    write_run(tmp_path, "b", "multimodal", 0.9)
    write_run(tmp_path, "c", "multimodal", 0.7, trainer__lr=0.1)
    write_run(tmp_path, "d", "multimodal", 0.7, dataset__label="other")
    other, trial = own_layouts(read_runs(tmp_path))
    assert [row.title for row in trial.rows] == [
        "mlp, SUM + CE",
        "mlp, MultiModal, trainer.lr=0.01",
        "mlp, MultiModal, trainer.lr=0.1",
    ]
    assert [row.title for row in other.rows] == ["mlp, MultiModal"]
    assert (trial.name, other.title) == ("own_trial", "Your data: other")


def test_the_page_and_the_terminal_show_them_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    write_run(tmp_path / "runs", "b", "multimodal", 0.9)
    page = report(tmp_path / "runs", tmp_path / "report").read_text()
    assert "Your data: trial" in page
    said = capsys.readouterr().out
    assert "89.0" in said and "3 of 3" in said and "Your data: trial" in said and "Table 1" not in said
    cells = (tmp_path / "report" / "own_trial.csv").read_text()
    assert "b,ACC,test/fused/ACC" in cells


def test_they_are_not_saved_as_results(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    report(tmp_path / "runs", tmp_path / "report", save_results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_without_any_run_the_page_shows_what_table_1_lacks(tmp_path: Path) -> None:
    assert "Table 1: accuracy" in report(tmp_path / "runs", tmp_path / "report").read_text()


def test_runs_that_were_split_differently_stand_in_different_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "sum_ce", 0.8)
    write_run(tmp_path, "b", "multimodal", 0.9, dataset__split_seed=1)
    write_run(tmp_path, "c", "nn_ce", 0.9, dataset__folds=10)
    write_run(tmp_path, "d", "nn_ce", 0.9, dataset__label="other")
    layouts = own_layouts(read_runs(tmp_path))
    assert [(table.title, [row.key for row in table.rows]) for table in layouts] == [
        ("Your data: other", ["d"]),
        ("Your data: trial, dataset.folds=10, dataset.split_seed=0", ["c"]),
        ("Your data: trial, dataset.folds=3, dataset.split_seed=0", ["a"]),
        ("Your data: trial, dataset.folds=3, dataset.split_seed=1", ["b"]),
    ]
    assert len({table.name for table in layouts}) == 4


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
    assert ([row.key for row in test.rows], test.title) == (["a"], "Your data: trial")
    assert ([row.key for row in inner.rows], inner.title) == (["b", "c"], "Your data: trial, inner folds")
    assert "no test scores" in inner.description and not inner.conditions and not inner.compared
    report(tmp_path / "runs", tmp_path / "report")
    (written,) = (tmp_path / "report").glob("own_trial_inner_folds*.csv")
    assert "b,ACC,validation/fused/ACC,,,10," in written.read_text()
    assert "inner" not in (tmp_path / "report" / "own_trial.md").read_text()


def test_runs_are_compared_over_folds_of_the_same_samples(tmp_path: Path) -> None:
    for name, fusion, fingerprint in (("a", "sum_ce", "f"), ("b", "multimodal", "f"), ("c", "nn_ce", "changed")):
        write_run(tmp_path, name, fusion, 0.8, fingerprint=fingerprint)
    (layout,) = own_layouts(runs := read_runs(tmp_path))
    found = compare(tables.fill(layout, runs, lambda overrides: overrides[0].removeprefix("run=")))
    assert [(one.first, one.second, one.folds) for one in found] == [("mlp, SUM + CE", "mlp, MultiModal", 3)]
    assert "compared over the folds in which both have the same test samples" in layout.description


def test_seeds_of_one_fixed_split_are_not_compared_as_folds(tmp_path: Path) -> None:
    """`folds: auto` stands in the config of every run on tables, of those with a fixed split too."""
    write_run(tmp_path, "a", "sum_ce", 0.8, by_fold=False)
    write_run(tmp_path, "b", "multimodal", 0.9, by_fold=False)
    (layout,) = own_layouts(read_runs(tmp_path))
    assert layout.compared == "" and "compared" not in layout.description
