"""A person's own tables: a row per run, told apart by what differs, never mixed with the paper's."""

import json
from pathlib import Path
from typing import Any

import pytest

from multimodal_loss.report import report
from multimodal_loss.reporting.layouts_own import own_layouts
from multimodal_loss.results.collect import read_runs


def write_run(folder: Path, name: str, fusion: str, accuracy: float, **changes: Any) -> None:
    values = {"ACC": accuracy, "FM": 0.5, "FW": 0.5, "MCC": 0.4, "AUC": None, "AP": 0.3}
    config = {
        "dataset": {"name": "tables", "label": "trial", "path": "x"},
        "backbone": {"name": "mlp"},
        "fusion": {"name": fusion},
        "trainer": {"lr": 0.01},
        "folds": "auto",
    }
    for key, value in changes.items():
        group, _, option = key.partition("__")
        config[group][option] = value  # type: ignore[index]
    replicates = [
        {"replicate": f, "fold": f, "seconds": 1.0, "metrics": {"test": {"fused": values, "modalities": {}}}}
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
    assert "90.0" in said and "3 of 3" in said and "Your data: trial" in said and "Table 1" not in said
    cells = (tmp_path / "report" / "own_trial.csv").read_text()
    assert "b,ACC,test/fused/ACC" in cells


def test_they_are_not_saved_as_results(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", "sum_ce", 0.8)
    report(tmp_path / "runs", tmp_path / "report", save_results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_without_any_run_the_page_shows_what_table_1_lacks(tmp_path: Path) -> None:
    assert "Table 1: accuracy" in report(tmp_path / "runs", tmp_path / "report").read_text()
