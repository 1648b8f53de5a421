"""Folds as replicates: which there are, what each trains on, values per fold, and continuing between folds."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import multimodal_loss.training.run as train_module
from conftest import run_training, start_training
from multimodal_loss.configuration import compose_config, planned_run, resolved
from multimodal_loss.errors import UserError
from multimodal_loss.training.replicate import Replicate
from multimodal_loss.training.run import FailedRun, run

from test_resume import outcome, stop_after_a_checkpoint  # isort: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder of two small tables with 60 samples of three classes."""
    folder = tmp_path / "study"
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    (folder / "labels.csv").write_text("id,label\n" + "".join(f"s{i},{'xyz'[c]}\n" for i, c in enumerate(labels)))
    for name, width in (("genes", 7), ("images", 4)):
        values = rng.normal(size=(60, width)) + rng.normal(size=(3, width))[labels]
        header = ",".join(["id", *(f"f{j}" for j in range(width))])
        rows = [",".join([f"s{i}", *map(repr, row.tolist())]) for i, row in enumerate(values)]
        (folder / f"{name}.csv").write_text("\n".join([header, *rows, ""]))
    return folder


@pytest.fixture
def overrides(study: Path, tmp_path: Path) -> list[str]:
    return [
        *(
            *("dataset=tables", "trainer=full_batch", "optimizer=adam", "tuning=none"),
            f"dataset.path={study}",
            "backbone=moma",
            "backbone.modules=16",
            "optimizer.weight_decay=1e-3",
        ),
        *("trainer.max_epochs=30", "optimizer.lr=5e-3", "threads=1", "device=cpu", "progress=false"),
        f"output_dir={tmp_path}/runs",
    ]


def result_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "result.json").read_text())
    return content


def test_every_fold_is_a_replicate_with_its_own_data(overrides: list[str]) -> None:
    directory = run(compose_config([*overrides, "fusion=multimodal", "store_training_outputs=true"]))
    replicates = result_of(directory.path)["replicates"]
    assert [(r["replicate_id"], r["seed"], r["fold"]) for r in replicates] == [(f, 0, f) for f in range(5)]
    assert len({r["data_fingerprint"] for r in replicates}) == 5
    assert all(r["seconds"] > 0 and r["epochs"] == 30 for r in replicates)
    predictions = np.load(directory.predictions)
    assert sum(len(predictions[f"{f}/target"]) for f in range(5)) == 60
    assert predictions["0/train_modalities"].shape == (48, 2, 3) and predictions["0/proxies"].shape == (3, 20, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(predictions["0/proxies"].reshape(60, 6), axis=1), 1, rtol=1e-5)


def test_a_fold_alone_gives_what_it_gives_among_all(overrides: list[str]) -> None:
    every = result_of(run(compose_config([*overrides, "fusion=nn_ce"])).path)["replicates"]
    (alone,) = result_of(run(compose_config([*overrides, "fusion=nn_ce", "folds=[3]"])).path)["replicates"]
    for replicate in (alone, every[3]):
        del replicate["seconds"]
    assert alone == every[3]


def test_a_fitted_backbone_of_which_one_fold_was_run_alone(overrides: list[str]) -> None:
    fitted = [one for one in overrides if not one.startswith("backbone")]
    (alone,) = result_of(run(compose_config([*fitted, "method=logistic", "folds=[0]"])).path)["replicates"]
    first, _ = result_of(run(compose_config([*fitted, "method=logistic", "folds=[0,1]"])).path)["replicates"]
    for replicate in (alone, first):
        del replicate["seconds"]
    assert alone == first


def test_a_done_run_is_trained_again_where_the_tables_changed_since(
    overrides: list[str], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What decides is what the files hold, not when they were written."""
    config = compose_config([*overrides, "fusion=sum_ce", "folds=[0]"])
    directory = run(config)
    before, ended = result_of(directory.path), directory.result.stat().st_mtime
    os.utime(study / "genes.csv", (ended + 5, ended + 5))
    run(config)
    assert "warning" not in capsys.readouterr().err
    (study / "genes.csv").write_text((study / "genes.csv").read_text().replace("s7,", "s7,1"))
    run(config)
    assert "the data changed after" in capsys.readouterr().err
    after = result_of(directory.path)
    assert before["replicates"][0]["data_fingerprint"] != after["replicates"][0]["data_fingerprint"]


def test_a_rate_and_modules_for_each_fold(overrides: list[str]) -> None:
    values = ["optimizer.lr={per_fold:[1e-3,2e-3,5e-3,1e-2,1e-1]}", "fusion=sum_ce"]
    values += ["backbone.modules={per_fold:[16,16,32,16,16]}"]
    listed = run(compose_config([*overrides, *values]))
    single = run(compose_config([*overrides, "fusion=sum_ce", "optimizer.lr=5e-3", "backbone.modules=32", "folds=[2]"]))
    assert np.array_equal(np.load(listed.predictions)["2/fused"], np.load(single.predictions)["2/fused"])
    stored = torch.load(listed.checkpoint, weights_only=True)["replicates"]
    assert [len(stored[f]["backbone"]["coordinates.0.weight"]) for f in range(5)] == [32, 32, 64, 32, 32]


def test_killed_in_any_fold_it_ends_in_the_same_numbers(overrides: list[str], tmp_path: Path) -> None:
    long = [*overrides, "fusion=multimodal", "trainer.max_epochs=150", "trainer.patience=150"]
    expected = run(compose_config([*long, f"output_dir={tmp_path}/undisturbed"])).path
    folder = tmp_path / "runs" / expected.name
    for kill in (signal.SIGKILL, signal.SIGTERM):
        process = start_training([*long, "checkpoint_seconds=0.3"])
        stop_after_a_checkpoint(process, folder, kill)
        assert not (folder / "result.json").exists()
    assert run_training(long).returncode == 0
    assert outcome(folder) == outcome(expected)


@pytest.mark.parametrize(
    ("folds", "complaint"),
    [("[7]", "folds 0 to 4"), ("[0,0]", "each once"), ("[x]", r'folds=\["x"\]'), ("[]", "at least one")],
)
def test_bad_folds_fail_in_one_line(overrides: list[str], folds: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        run(compose_config([*overrides, f"folds={folds}"]))


def test_all_folds_written_out_are_the_run_of_auto_and_further_seeds_do_not_count(overrides: list[str]) -> None:
    every = [f"folds={folds}" for folds in ("auto", "[0,1,2,3,4]")]
    hashes = {planned_run([*overrides, folds, seeds]).hash for folds in every for seeds in ("seeds=[0]", "seeds=[0,7]")}
    assert len(hashes) == 1
    assert planned_run([*overrides, "folds=[0,1,2,3]"]).hash not in hashes
    assert planned_run([*overrides, "seeds=[1]"]).hash not in hashes


def test_a_fold_without_a_value_of_its_own_is_named(overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"per_fold=\[0.1\]: has no entry for fold 1"):
        run(compose_config([*overrides, "fusion=sum_ce", "optimizer.lr={per_fold:[0.1]}", "trainer.max_epochs=1"]))


def test_a_missing_folder_says_how_to_get_it(tmp_path: Path) -> None:
    done = run_training(["dataset=tcga_brca", f"data_dir={tmp_path}", f"output_dir={tmp_path}/runs"])
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: {tmp_path}/tcga_brca does not exist; to get it: make data-tcga-subtypes (downloads 82 MB; two minutes)"
    )


def test_a_run_keeps_its_name_wherever_data_dir_lies(tmp_path: Path) -> None:
    hashes = {planned_run(["dataset=tcga_brca", f"data_dir={folder}"]).hash for folder in ("data", tmp_path)}
    assert len(hashes) == 1
    a, b = (planned_run(["dataset=tables", f"dataset.path={path}"]).hash for path in "ab")
    assert a != b


def test_a_step_is_an_epoch_unless_batches_are_asked_for(overrides: list[str]) -> None:
    config = compose_config([*overrides, "fusion=sum_ce", "trainer.batch_size=16", "trainer.max_epochs=3", "folds=[0]"])
    assert resolved(config)["trainer"]["batch_size"] == 16
    assert result_of(run(config).path)["replicates"][0]["epochs"] == 3


def test_every_fold_that_has_ended_is_kept_however_short(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints come at longer intervals than all folds: a run killed in fold 3's evaluation keeps 0 to 3."""
    config = compose_config([*overrides, "fusion=multimodal", "checkpoint_seconds=1e6"])
    expected = run(compose_config([*overrides, "fusion=multimodal", f"output_dir={tmp_path}/undisturbed"])).path
    evaluate, train_fold = train_module.evaluate, train_module.train
    trained: list[int] = []

    def killed(replicate: Replicate, *rest: Any) -> Any:
        if replicate.replicate_id == 3:
            raise KeyboardInterrupt
        return evaluate(replicate, *rest)

    def counting(replicates: list[Replicate], stack: Any, *rest: Any) -> Any:
        trained.extend(r.replicate_id for r in replicates if not rest[-1].stopped.get(r.replicate_id))
        return train_fold(replicates, stack, *rest)

    monkeypatch.setattr(train_module, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(train_module, "evaluate", evaluate)
    monkeypatch.setattr(train_module, "train", counting)
    assert outcome(run(config).path) == outcome(expected)
    assert trained == [4]


@pytest.mark.parametrize("change", ["value", "column"])
def test_a_checkpoint_is_never_continued_on_other_data(overrides: list[str], study: Path, change: str) -> None:
    long = [*overrides, "fusion=multimodal", "trainer.max_epochs=100000", "trainer.patience=100000"]
    process = start_training([*long, "checkpoint_seconds=0.1"])
    folder = Path(overrides[-1].partition("=")[2]) / "-".join(planned_run(long)[:2])
    stop_after_a_checkpoint(process, folder, signal.SIGKILL)
    lines = (study / "images.csv").read_text().splitlines()
    if change == "value":
        lines[1] = lines[1].rpartition(",")[0] + ",0.125"
    else:
        lines = [f"{line},{'new' if i == 0 else i % 7}" for i, line in enumerate(lines)]
    (study / "images.csv").write_text("\n".join([*lines, ""]))
    with pytest.raises(
        FailedRun, match=r"the data or initial weights of replicate 0 changed since .*checkpoint.pt was written; delete"
    ):
        run(compose_config(long))
    (folder / "checkpoint.pt").unlink()
    assert result_of(run(compose_config([*long[:-2], "trainer.max_epochs=3"])).path)["status"] == "done"


def test_monitoring_folds_without_a_validation_part_fails_before_training(overrides: list[str]) -> None:
    batches = [*overrides, "trainer=mini_batch", "fusion=sum_ce", "folds=[0]"]
    with pytest.raises(FailedRun, match=r"no validation part to monitor: set trainer\.monitor=null"):
        run(compose_config(batches))
    directory = run(compose_config([*batches, "trainer.monitor=null", "trainer.batch_size=16"]))
    assert result_of(directory.path)["replicates"][0]["epochs"] == 30
