"""Tuned values are the best of the grid on inner held-out parts, and what is missing is said."""

import csv
import itertools
import json
from pathlib import Path

import pytest
import yaml

import choose_tuned
from multimodal_loss.configuration import compose_config, planned_run, resolved


def write_grid(runs: Path, accuracy: dict[tuple[str, str, str], float]) -> None:
    """A finished run for every point of the grid; `accuracy` by fusion, rate and modules, 0.5 elsewhere."""
    grid = choose_tuned.Grid.read()
    points = itertools.product(grid.methods.items(), grid.rates, grid.modules, grid.inner_folds)
    for (fusion, methods), rate, modules, inner in points:
        for method in methods:
            point = ["experiment=tune_table_5", "dataset=tcga_brca", "folds=[0]", f"method={method}"]
            point += [f"optimizer.lr={rate}", f"backbone.modules={modules}", f"dataset.inner_fold={inner}"]
            value = accuracy.get((fusion, rate, modules), 0.5) + 0.001 * int(inner)
            replicate = {"replicate_id": 0, "stopped": "max_epochs" if rate == "5e-4" else "no_progress"}
            replicate |= {"metrics": {"validation": {"fused": {"ACC": value}}}}  # type: ignore[dict-item]
            folder = runs / "-".join(planned_run(point)[:2])
            folder.mkdir(parents=True)
            result = {"schema": 2, "status": "done", "replicates": [replicate]}
            (folder / "result.json").write_text(json.dumps(result))


def choose(tmp_path: Path) -> int:
    places = ["--runs", str(tmp_path / "runs"), "--tuned", str(tmp_path), "--results", str(tmp_path / "results")]
    return choose_tuned.main(["--dataset", "tcga_brca", *places])


def test_the_best_mean_wins_and_of_equals_the_smaller_rate(tmp_path: Path) -> None:
    write_grid(tmp_path / "runs", {("sum_ce", "5e-3", "64"): 0.9, ("mulmix", "5e-3", "32"): 0.7})
    assert choose(tmp_path) == 0
    tuned = yaml.safe_load((tmp_path / "tcga_brca.yaml").read_text())
    assert (tuned["learning_rates"]["sum_ce"], tuned["modules"]["sum_ce"]) == (5e-3, 64)
    assert (tuned["learning_rates"]["mulmix"], tuned["modules"]["mulmix"]) == (5e-3, 32)
    assert (tuned["learning_rates"]["nn_ce"], tuned["modules"]["nn_ce"]) == (5e-4, 32)
    assert set(tuned["modules"]) == {
        *("multitask", "sum_ce", "nn_ce", "mulmix", "soft_triple", "proxy_anchor", "multimodal", "unimodal")
    }
    rows = list(csv.DictReader((tmp_path / "results" / "tcga_brca.csv").open()))
    assert len(rows) == 8 * 2 * 2 and sum(row["chosen"] == "1" for row in rows) == 8
    (best,) = [row for row in rows if row["fusion"] == "sum_ce" and row["chosen"] == "1"]
    assert best["inner_accuracies"] == "0.900000;0.901000;0.902000" and best["stopped_by_cap"] == "0"


def test_a_missing_run_is_named_with_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(tmp_path) == 1
    assert "is not done" in capsys.readouterr().err
    assert not (tmp_path / "tcga_brca.yaml").exists()


def test_the_tuned_values_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset's learning_rates and modules, wherever they come from, set the trainer's and the backbone's."""
    chosen = ["+facts.dataset.learning_rates={sum_ce: 0.025}", "+facts.dataset.modules={sum_ce: {per_fold: [48, 16]}}"]
    config = resolved(compose_config(["experiment=table_5", "dataset=tcga", "method=sum_ce", *chosen]))
    assert (config["optimizer"]["lr"], config["backbone"]["modules"]) == (0.025, {"per_fold": [48, 16]})
