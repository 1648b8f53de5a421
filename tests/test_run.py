"""One run from config to result.json: what it holds, what is skipped, and how failures look."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from conftest import run_training
from multimodal_loss.configuration import RunConfig, compose_config
from multimodal_loss.datasets import SyntheticDataset
from multimodal_loss.errors import UserError
from multimodal_loss.files import WriteError
from multimodal_loss.results.metrics import compute_metrics
from multimodal_loss.training import run as train_module
from multimodal_loss.training.collapsed import CollapsedTrainer
from multimodal_loss.training.evaluate import predict
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.replicate import Replicate
from multimodal_loss.training.run import FailedRun, run


def result_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "result.json").read_text())
    return content


def test_a_run_directory_holds_what_the_contract_says(tiny: list[str]) -> None:
    directory = run(compose_config([*tiny, "fusion=multimodal"]))
    result = result_of(directory.path)
    assert directory.path.name == f"synthetic-noisy2-seed3-mlp-multimodal-{result['hash']}"
    assert (result["status"], result["error"], result["schema"], result["profile"]) == ("done", None, 2, "full")
    assert result["dataset"] == {
        "name": "synthetic",
        "modalities": ["m1", "m2", "m3"],
        "inputs": ["m1", "m2", "m3"],
        "classes": ["0", "1"],
        "sizes": {"train": 80, "validation": 20, "test": 60},
        "generated": False,
    }
    assert set(result["data"]) == {"fingerprint", "version"}
    assert {"git", "versions", "hardware", "started", "ended", "config", "device"} <= result.keys()
    assert [r["replicate_id"] for r in result["replicates"]] == [0, 1]
    predictions = np.load(directory.predictions)
    for replicate in result["replicates"]:
        assert replicate["epochs"] == 40
        assert replicate["stopped"] == "max_epochs"
        number = replicate["replicate_id"]
        target, fused = predictions[f"{number}/target"], predictions[f"{number}/fused"]
        modalities = predictions[f"{number}/modalities"]
        assert (target.shape, fused.shape, modalities.shape) == ((60,), (60, 2), (60, 3, 2))
        np.testing.assert_allclose(modalities.sum(-1), 1, atol=1e-5)
        assert replicate["metrics"]["test"]["fused"] == pytest.approx(compute_metrics(target, fused))
        assert replicate["metrics"]["test"]["modalities"]["m2"] == pytest.approx(
            compute_metrics(target, modalities[:, 1])
        )
        assert replicate["metrics"]["validation"]["fused"]["ACC"] is not None
        assert {len(v) for v in replicate["proxies"].values()} == {2}
    history = (directory.path / "history.csv").read_text().splitlines()
    assert history[0] == "replicate_id,epoch,train_loss,seconds"
    assert len(history) == 1 + 2 * 40


def fresh_replicates(config: DictConfig) -> list[Replicate]:
    """The replicates of a config before training."""
    settings = RunConfig.parse(config)
    dataset = train_module.make_dataset(settings)
    return [train_module.make_planned(settings, dataset, planned) for planned in settings.plan(dataset.num_folds)]


def test_stored_predictions_are_those_of_the_checkpoint(tiny: list[str]) -> None:
    """Backbone and fusion, rebuilt from the config and the checkpoint alone, give the stored probabilities."""
    config = compose_config([*tiny, "fusion=nn_ce"])
    directory = run(config)
    checkpoint = torch.load(directory.checkpoint, weights_only=True)
    predictions = np.load(directory.predictions)
    for replicate in fresh_replicates(config):
        replicate.load_state_dict(checkpoint["replicates"][replicate.replicate_id])
        recipe = train_module.make_recipe(RunConfig.parse(config), replicate)
        again = predict(replicate, replicate.data.test, recipe, torch.device("cpu"))
        np.testing.assert_array_equal(again["fused"], predictions[f"{replicate.replicate_id}/fused"])


@pytest.mark.parametrize("fusion", ["nn_ce", "multimodal", "soft_triple", "proxy_anchor"])
@pytest.mark.parametrize("path", ["auto", "ordinary"])
def test_fusion_parameters_are_trained_and_stored(tiny: list[str], fusion: str, path: str) -> None:
    config = compose_config([*tiny, f"fusion={fusion}", f"trainer.path={path}"])
    checkpoint = torch.load(run(config).checkpoint, weights_only=True)
    for fresh in fresh_replicates(config):
        stored = checkpoint["replicates"][fresh.replicate_id]["fusion"]
        assert stored.keys() == dict(fresh.fusion.named_parameters()).keys()
        for name, value in fresh.fusion.named_parameters():
            assert not torch.equal(stored[name], value), f"{name} did not move"


def test_a_done_run_is_skipped_and_a_failed_one_is_run_again(tiny: list[str]) -> None:
    config = compose_config([*tiny, "fusion=sum_ce"])
    directory = run(config)
    before = directory.result.read_bytes()
    assert run(config).result.read_bytes() == before
    result = json.loads(before)
    directory.result.write_text(json.dumps({**result, "status": "failed"}))
    run(config)
    assert result_of(directory.path)["status"] == "done"
    directory.result.write_text("{ torn")
    run(config)
    assert result_of(directory.path)["status"] == "done"


def test_a_loss_that_is_not_finite_fails_the_run_in_one_line(tiny: list[str]) -> None:
    overrides = [*tiny, "fusion=sum_ce", "backbone.activation=relu", "optimizer.lr=1e30"]
    with pytest.raises(FailedRun, match=r"loss of replicate 0 became nan in epoch \d+; try a smaller optimizer.lr"):
        run(compose_config(overrides))
    (folder,) = Path(tiny[-2].removeprefix("output_dir=")).iterdir()
    result = result_of(folder)
    assert result["status"] == "failed"
    assert "optimizer.lr" in result["error"]
    assert not (folder / "predictions.npz").exists()


def test_a_full_disk_fails_the_run_in_one_line_and_keeps_the_last_checkpoint(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_config([*tiny, "fusion=sum_ce", "checkpoint_seconds=0"])
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:  # some checkpoints are written, then the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FailedRun, match=r"cannot write .*: No space left on device"):
        run(config)
    (folder,) = Path(tiny[-2].removeprefix("output_dir=")).iterdir()
    assert result_of(folder)["status"] == "failed"
    assert not list(folder.glob(".*tmp"))
    torch.load(folder / "checkpoint.pt", weights_only=True)
    monkeypatch.undo()
    run(config)
    assert result_of(folder)["status"] == "done"


def test_a_lock_file_that_cannot_be_opened_is_one_line_also_where_the_run_is_done(tiny: list[str]) -> None:
    config = compose_config([*tiny, "fusion=sum_ce"])
    lock = run(config).path / ".lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(WriteError, match=r"^cannot open .*\.lock: Is a directory; delete it, or"):
        run(config)


def test_a_run_killed_between_its_last_checkpoint_and_its_result_only_evaluates_again(tiny: list[str]) -> None:
    config = compose_config([*tiny, "fusion=multimodal"])
    directory = run(config)
    first, predictions = result_of(directory.path), directory.predictions.read_bytes()
    directory.result.unlink()
    run(config)
    assert result_of(directory.path)["replicates"] == first["replicates"]
    assert directory.predictions.read_bytes() == predictions


@pytest.mark.parametrize("path", ["auto", "ordinary"])
def test_training_outputs_that_a_done_run_lacks_are_added_without_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    config = [*tiny, "fusion=multimodal", f"trainer.path={path}"]
    directory = run(compose_config(config))
    before, predictions = result_of(directory.path), dict(np.load(directory.predictions))
    for trainer in (CollapsedTrainer, OrdinaryTrainer):
        monkeypatch.setattr(trainer, "step", None)
    run(compose_config([*config, "store_training_outputs=true"]))
    assert result_of(directory.path)["replicates"] == before["replicates"]
    after = dict(np.load(directory.predictions))
    assert {"0/train_target", "1/train_modalities", "1/proxies"} <= after.keys() - predictions.keys()
    assert all(np.array_equal(array, after[key]) for key, array in predictions.items())
    for again in ([], ["store_training_outputs=true"]):  # done, with more than is asked for, or just that
        stamp = directory.result.stat().st_mtime_ns
        assert run(compose_config([*config, *again])).result.stat().st_mtime_ns == stamp


def test_test_rows_never_reach_training(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other test and validation data: the same weights, the same epochs."""
    config = compose_config([*tiny, "fusion=multimodal"])
    original = torch.load(run(config).checkpoint, weights_only=True)["replicates"]
    load = SyntheticDataset.load

    def poisoned(self: SyntheticDataset, fold: int | None = None) -> Any:
        data = load(self, fold)
        assert data.validation is not None
        for split in (data.test, data.validation):
            for x in split.inputs:
                x.copy_(torch.full_like(x, 1e3))
        return data

    monkeypatch.setattr(SyntheticDataset, "load", poisoned)
    other = compose_config([*tiny, "fusion=multimodal", f"output_dir={tmp_path}/poisoned"])
    again = torch.load(run(other).checkpoint, weights_only=True)["replicates"]
    for number, parts in original.items():
        for part, tensors in parts.items():
            for name, tensor in tensors.items():
                assert torch.equal(tensor, again[number][part][name])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=-1", "bad value in optimizer: Invalid learning rate: -1"),
        ("optimizer.lr=0", "optimizer.lr=0: must be a number above 0"),
        ("optimizer.weight_decay=-1", "bad value in optimizer: Invalid weight_decay value: -1"),
        ("trainer.accumulate=0", "trainer.accumulate=0: must be a whole number above 0"),
        ("trainer.clip_norm=abc", "trainer.clip_norm=abc: must be a number above 0"),
        ("trainer.monitor=test_loss", "trainer.monitor=test_loss: must be one of validation_loss"),
        ("folds=[7]", "one fixed split"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: must be a whole number above 0"),
        ("trainer.patience=1.5", "trainer.patience=1.5"),
        ("trainer.path=fast", "trainer.path=fast"),
        ("threads=0", "threads=0"),
        ("device=gpu9", "device=gpu9 cannot be used here"),
        ("dataset.labels=soft", "dataset.labels=soft"),
        ("fusion_input=scores", "fusion_input=scores"),
        ("fusion.gamma=-1", "bad value in fusion: gamma must be a number above 0, got -1"),
        ("+fusion.reduction=none", "fusion.reduction=none: what is trained and monitored is the mean"),
        ("fusion.proxies_per_class=2.5", "fusion.proxies_per_class=2.5: must be a whole number"),
        ("dataset.data_seed=1.5", "dataset.data_seed=1.5: must be a whole number"),
        ("dataset.coefficient_spread=abc", "dataset.coefficient_spread=abc: must be a number of at least 0"),
        ("dataset.num_features=20.5", "dataset.num_features=20.5: must be a whole number above 0"),
        ("dataset.train_size=many", "dataset.train_size=many: must be a whole number above 0"),
        ("dataset.noisy_modalities=two", "dataset.noisy_modalities=two: must be a whole number"),
        ("dataset.num_modalities=2.5", "dataset.num_modalities=2.5: must be a whole number"),
        ("dataset.easy_sigma=abc", "dataset.easy_sigma=abc: must be a number"),
        ("dataset.sigmas=0.2", "dataset.sigmas=0.2: must be a list, each a number or null"),
        ("backbone.activation=sine", "backbone.activation=sine"),
        ("dataset.modalities=[m9]", "m9"),
    ],
)
def test_a_bad_value_is_one_clear_line(tiny: list[str], override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        run(compose_config([*tiny, "fusion=multimodal", override]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["fusion=multimodel"], 2, "did you mean multimodal"),
        (["trainer.learning_rate=1"], 2, "Could not override 'trainer.learning_rate'"),
        (["dataset.noisy_modalites=1"], 2, "did you mean dataset.noisy_modalities"),
        (["fusion=sum_ce,multimodal"], 2, "add --multirun"),
        (["-m", "fusion=sum_ce,multimodal", "trainer.patiance=1"], 2, "did you mean trainer.patience"),
        (["experiment=null", "method=null", "fusion=sum_ce", "seeds=[]"], 2, "seeds=[]: give at least one"),
        (["output_dir=/dev/null/runs"], 1, "cannot make the run directory"),
        (["fusion=sum_ce", "dataset.labels=soft"], 2, "dataset.labels=soft: must be one of threshold, bernoulli"),
        (["fusion=sum_ce", "backbone.activation=relu", "optimizer.lr=1e30"], 1, "became nan"),
    ],
)
def test_the_command_ends_with_one_line_and_its_exit_code(
    tiny: list[str], overrides: list[str], code: int, message: str
) -> None:
    flags = [one for one in overrides if one.startswith("-")]
    ended = run_training([*tiny, *(one for one in overrides if one not in flags)], *flags)
    assert ended.returncode == code
    assert message in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_sweep_goes_on_after_a_failed_job_and_says_so_at_the_end(tiny: list[str]) -> None:
    ended = run_training([*tiny, "fusion=sum_ce,nn_ce", "optimizer.lr=1e30,1e-3", "backbone.activation=relu"], "-m")
    assert ended.returncode == 1
    folders = [Path(line) for line in ended.stdout.splitlines()]
    assert len(folders) == 2
    assert all(result_of(folder)["status"] == "done" for folder in folders)
    assert len(ended.stderr.strip().splitlines()) == 2


def test_the_last_line_is_the_run_directory(tiny: list[str]) -> None:
    ended = run_training([*tiny, "fusion=sum_ce", "progress=true"])
    assert ended.returncode == 0
    assert result_of(Path(ended.stdout.splitlines()[-1]))["status"] == "done"
    assert "epoch 40" in ended.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_exit_codes_of_a_sweep_come_back_from_whatever_process_ran_the_job(tiny: list[str], launcher: str) -> None:
    """Through the output folder, which a cluster's nodes share, and nothing is left there."""
    ended = run_training([*tiny, "fusion=sum_ce,multimodal", "dataset.labels=soft", f"hydra/launcher={launcher}"], "-m")
    assert ended.returncode == 2
    assert ended.stderr.count("dataset.labels=soft: must be one of") == 2
    folder = Path(next(o for o in tiny if o.startswith("output_dir=")).partition("=")[2])
    assert not list(folder.glob("**/failure*"))


def test_a_done_run_is_trained_again_where_the_generator_changed(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its version is part of a run's identity; what is drawn otherwise under the same one has another fingerprint."""
    config = compose_config([*tiny, "fusion=sum_ce"])
    directory = run(config)
    before = directory.result.read_bytes()
    monkeypatch.setattr(SyntheticDataset, "fingerprint", lambda _: "drawn otherwise")
    assert run(config).path == directory.path
    assert "the data changed after" in capsys.readouterr().err
    assert result_of(directory.path)["data"]["fingerprint"] == "drawn otherwise"
    (kept,) = directory.path.parent.glob(f".{directory.path.name}.*")
    assert (kept / "result.json").read_bytes() == before and (kept / "checkpoint.pt").exists()
    monkeypatch.undo()
    monkeypatch.setattr(SyntheticDataset, "version", 99)
    assert run(config).path != directory.path


def test_a_run_is_found_under_the_name_it_was_made_with(tiny: list[str]) -> None:
    first = run(compose_config([*tiny, "method=sum_ce"]))
    assert run(compose_config([*tiny, "fusion=sum_ce", "name=other"])).path == first.path


def test_replicates_of_a_fitted_backbone_are_one_where_there_is_one_split(tiny: list[str]) -> None:
    fitted = [one for one in tiny if not one.startswith("backbone")]
    result = result_of(run(compose_config([*fitted, "method=logistic"])).path)
    assert [r["replicate_id"] for r in result["replicates"]] == [0]
    assert result["replicates"][0]["stopped"] == "fitted"
