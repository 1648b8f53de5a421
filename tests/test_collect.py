"""Run directories in every state they can be left in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden.fakes import fake_outputs
from multimodal_loss.results.collect import aggregate, read_history, read_outputs, read_predictions, read_run, read_runs
from multimodal_loss.results.run_directory import SCHEMA


def result(**changes: Any) -> dict[str, Any]:
    replicates = [
        {"replicate_id": r, "seconds": 2.0 + r, "metrics": {"test": {"fused": {"ACC": 0.8 + 0.01 * r, "AUC": None}}}}
        for r in (1, 0)
    ]
    content = {"schema": SCHEMA, "status": "done", "error": None, "profile": "full", "replicates": replicates}
    return content | {"config": {"optimizer": {"lr": 5e-4}}, "dataset": {"modalities": ["m1", "m2"]}} | changes


def write(path: Path, content: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "result.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", result()))
    assert (run.state, run.reason, run.name, run.profile) == ("done", "", "a", "full")
    assert run.values("test/fused/ACC") == {0: 0.8, 1: 0.81}
    assert list(run.values("test/fused/ACC")) == [0, 1]
    assert run.values("seconds") == {0: 2.0, 1: 3.0}
    assert run.values("test/fused/AUC") == {}
    assert run.values("test/fused/ACC/deeper") == {}
    assert run.get("config/optimizer/lr") == 5e-4
    assert run.get("config/no/such") is None
    assert run.modalities == ["m1", "m2"]


def test_values_that_are_no_numbers_count_as_missing(tmp_path: Path) -> None:
    content = result()
    for replicate, value in zip(content["replicates"], ["0.9", float("nan")], strict=True):
        replicate["metrics"]["test"]["fused"]["ACC"] = value
    assert read_run(write(tmp_path / "a", content)).values("test/fused/ACC") == {}


def test_a_list_with_a_number_per_class_counts_as_its_mean(tmp_path: Path) -> None:
    content = result()
    for replicate, used in zip(content["replicates"], ([1, 2, 6], [1, None, 3]), strict=True):
        replicate["proxies"] = {"used": used, "distinct": []}
    run = read_run(write(tmp_path / "a", content))
    assert run.values("proxies/used") == {1: 3.0}
    assert run.values("proxies/distinct") == {}


def test_a_failed_run_says_why_in_one_line(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", result(status="failed", error="loss is NaN\n at epoch 7", replicates=[])))
    assert (run.state, run.reason) == ("failed", "loss is NaN at epoch 7")
    assert read_run(write(tmp_path / "b", result(status="failed"))).reason == "no reason was recorded"


@pytest.mark.parametrize("config", ["name: a\nfacts: {dataset: {name: x}}", "", "- 1", "a: [", "\udcff", None])
def test_an_unfinished_run_has_no_more_than_its_config(tmp_path: Path, config: str | None) -> None:
    (tmp_path / "name-with-dashes-0a1b").mkdir()
    if config is not None:
        (tmp_path / "name-with-dashes-0a1b" / "config.yaml").write_bytes(config.encode(errors="surrogateescape"))
    run = read_run(tmp_path / "name-with-dashes-0a1b")
    assert (run.state, run.hash, run.replicates, run.values("seconds")) == ("unfinished", "0a1b", {}, {})
    assert run.get("config/facts/dataset/name") == ("x" if config and "facts" in config else None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"schema": 1, "status": "do', "cannot be read"),
        ("", "cannot be read"),
        ("[1, 2]", "does not hold a mapping"),
        (result(schema=1), "has schema 1"),
        (result(status="running"), "has status 'running'"),
        (result(replicates={"0": {}}), "no list of replicates"),
        (result(replicates=[{"replicate_id": 0}, {"replicate_id": 0}]), "a replicate_id of their own"),
        (result(replicates=["0"]), "a replicate_id of their own"),
    ],
)
def test_a_damaged_result_is_unreadable_with_a_reason(tmp_path: Path, content: Any, reason: str) -> None:
    run = read_run(write(tmp_path / "a", content))
    assert run.state == "unreadable"
    assert reason in run.reason
    assert run.values("test/fused/ACC") == {} and run.replicates == {}


def test_bytes_that_are_no_text_and_a_folder_in_the_way(tmp_path: Path) -> None:
    (write(tmp_path / "a", "") / "result.json").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "b" / "result.json").mkdir(parents=True)
    assert {run.state for run in read_runs(tmp_path)} == {"unreadable"}


def test_reading_a_folder_of_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "nowhere") == []
    write(tmp_path / "b", result())
    write(tmp_path / "a", "broken")
    write(tmp_path / ".hidden", result())
    (tmp_path / "file").touch()
    (tmp_path / "no run").mkdir()
    assert [run.name for run in read_runs(tmp_path)] == ["a", "b"]


def test_aggregate_uses_the_sample_standard_deviation() -> None:
    assert aggregate([]) == aggregate(iter([]))
    assert (aggregate([]).mean, aggregate([]).sd, aggregate([]).n) == (None, None, 0)
    assert (aggregate([2.0]).mean, aggregate([2.0]).sd) == (2.0, None)
    three = aggregate([1.0, 2.0, 6.0])
    assert three.mean == 3.0
    assert three.sd == pytest.approx((((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2) ** 0.5)


def test_history_skips_what_a_killed_run_cut_short(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", result()))
    assert read_history(run) == {}
    lines = ["replicate_id,epoch,train_loss,seconds", "1,1,0.7,0.1", "0,2,0.4,0.2", "0,1,0.5,0.1", "1,2"]
    (run.path / "history.csv").write_text("\n".join(lines))
    curves = read_history(run)
    assert list(curves) == [0, 1]
    assert curves[0][0].tolist() == [1, 2] and curves[0][1].tolist() == [0.5, 0.4]
    assert curves[1][1].tolist() == [0.7]


def test_predictions_keep_complete_replicates_only(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", result()))
    assert read_predictions(run) == {}
    (run.path / "predictions.npz").write_bytes(b"PK\x03\x04 cut short")
    assert read_predictions(run) == {}
    whole = {"0/target": np.array([0, 1]), "0/fused": np.ones((2, 2)) / 2, "0/modalities": np.ones((2, 3, 2)) / 2}
    part = {"1/target": np.array([0, 1]), "1/fused": np.ones((2, 2)) / 2}
    unequal = {"2/target": np.array([0]), "2/fused": np.ones((2, 2)), "2/modalities": np.ones((2, 3, 2))}
    np.savez(run.path / "predictions.npz", **(whole | part | unequal))
    assert sorted(read_predictions(run)) == ["0/fused", "0/modalities", "0/target"]


def test_the_outputs_of_a_replicate(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", result()))
    assert read_outputs(run, 0) is None
    arrays = fake_outputs(classes=3, replicates=2)
    np.savez(run.path / "predictions.npz", **arrays)
    outputs = read_outputs(run, 1)
    assert outputs is not None
    assert np.array_equal(outputs.proxies, arrays["1/proxies"])
    assert outputs.train_modalities.shape == (120, 2, 3)
    assert read_outputs(run, 2) is None
    assert sorted(read_predictions(run)) == [
        f"{r}/{part}" for r in (0, 1) for part in ("fused", "modalities", "target")
    ]


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("proxies", None),
        ("train_target", None),
        ("train_modalities", None),
        ("target", None),
        ("proxies", np.zeros((3, 4, 6))),
        ("proxies", np.zeros((3, 0, 2, 3))),
        ("proxies", np.zeros((2, 4, 2, 3))),
        ("proxies", np.full((3, 4, 2, 3), np.nan)),
        ("train_target", np.full(120, 3)),
        ("train_target", np.full(120, -1)),
        ("train_target", np.zeros((120, 1), dtype=int)),
        ("train_target", np.zeros(0, dtype=int)),
        ("train_modalities", np.ones((119, 2, 3)) / 3),
        ("train_modalities", np.ones((120, 2, 3))),
        ("train_modalities", np.full((120, 2, 3), np.nan)),
        ("modalities", np.ones((60, 2, 4)) / 4),
        ("proxies", np.array([{"an": "object"}])),
    ],
)
def test_outputs_that_do_not_fit_together_are_none(tmp_path: Path, key: str, array: Any) -> None:
    run = read_run(write(tmp_path / "a", result()))
    arrays: dict[str, Any] = fake_outputs(classes=3, replicates=1) | {f"0/{key}": array}
    np.savez(run.path / "predictions.npz", **{k: v for k, v in arrays.items() if v is not None})
    assert read_outputs(run, 0) is None
