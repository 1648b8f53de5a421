"""Tuning inside a run: what is chosen follows from the training samples alone, and can be continued."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from multimodal_loss.command import Interrupted
from multimodal_loss.configuration import CONFIG_DIR, RunConfig, compose_config, planned_run
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training import run as run_module
from multimodal_loss.training.collapsed import CollapsedTrainer
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.run import run
from multimodal_loss.training.tuning import Trial, Tuner

from test_resume import outcome  # isort: skip

METHODS = str(OmegaConf.load(CONFIG_DIR / "experiment" / "table_7.yaml").hydra.sweeper.params.method).split(",")
PLAIN = str(OmegaConf.load(CONFIG_DIR / "experiment" / "table_7_plain.yaml").hydra.sweeper.params.method).split(",")
FAST = ("trainer.max_epochs=4", "dataset.folds=4", "folds=[1]", "threads=1", "device=cpu", "progress=false")
TWO_RATES = "tuning.grid={optimizer.lr: [1e-2, 3e-2]}"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def write_study(folder: Path) -> Path:
    """Two modalities of 48 samples, three classes."""
    folder.mkdir()
    rng, label = np.random.default_rng(0), np.arange(48) % 3
    ids = pd.Index([f"s{i}" for i in range(48)], name="id")
    for m, width in enumerate((5, 3)):
        values = rng.normal(size=(48, width)) + np.eye(3, width)[label] * 2
        pd.DataFrame(values, ids, [f"f{j}" for j in range(width)]).to_csv(folder / f"m{m}.csv")
    pd.DataFrame({"label": label}, ids).to_csv(folder / "labels.csv")
    return folder


def overrides(study: Path, out: Path, *more: str) -> list[str]:
    return ["dataset=tables", f"dataset.path={study}", f"output_dir={out}", *FAST, *more]


def trained(study: Path, out: Path, *more: str) -> tuple[RunDirectory, dict[str, Any]]:
    directory = run(compose_config(overrides(study, out, *more)))
    return directory, json.loads(directory.result.read_text())["replicates"][0]


def weights(directory: RunDirectory) -> dict[str, torch.Tensor]:
    content = torch.load(directory.checkpoint, weights_only=True)["replicates"][1]
    return {f"{part}.{name}": tensor for part in content for name, tensor in content[part].items()}


@pytest.mark.parametrize("method", [*METHODS, *PLAIN])
def test_other_test_rows_change_no_weight_and_no_choice(study: Path, tmp_path: Path, method: str) -> None:
    """Every feature and every label of the test part is another; fold, groups and ids stay as they are."""
    backbone = [] if method in PLAIN else ["backbone=linear"]
    grid = [] if method in PLAIN else [TWO_RATES]
    labels = pd.read_csv(study / "labels.csv", index_col="id")
    labels.assign(fold=np.arange(48) // 3 % 4).to_csv(study / "labels.csv")
    first, before = trained(study, tmp_path / "a", f"method={method}", *backbone, *grid)
    test = np.arange(48) // 3 % 4 == 1
    for path in study.glob("m*.csv"):
        table = pd.read_csv(path, index_col="id")
        table[test] = np.random.default_rng(1).normal(50, 9, size=table[test].shape)
        table.to_csv(path)
    changed = pd.read_csv(study / "labels.csv", index_col="id")
    changed.loc[test, "label"] = (changed.loc[test, "label"] + 1) % 3
    changed.to_csv(study / "labels.csv")
    second, after = trained(study, tmp_path / "b", f"method={method}", *backbone, *grid)
    assert before["tuning"] == after["tuning"] and before["temperature"] == after["temperature"]
    assert before["epochs"] == after["epochs"] and before["last_loss"] == after["last_loss"]
    assert before["data_fingerprint"] != after["data_fingerprint"]
    if method not in PLAIN:  # what is stopped by does not stand still, not even where something is fitted afterwards
        assert max(trial["epochs"] for trial in before["tuning"]["trials"]) > 1
    own, other = weights(first), weights(second)
    assert own.keys() == other.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, msg=name)


def test_the_best_trial_is_chosen_and_trained_on_all_training_samples(study: Path, tmp_path: Path) -> None:
    grid = "tuning.grid={optimizer.lr: [1e-5, 3e-2]}"  # and what the backbone lets one choose
    directory, replicate = trained(study, tmp_path / "runs", "method=sum_ce_logits", grid, "trainer.max_epochs=15")
    trials = replicate["tuning"]["trials"]
    assert len(trials) == 4 and all(trial["error"] is None for trial in trials)
    best = min(trials, key=lambda trial: trial["score"])
    assert replicate["tuning"]["chosen"] == best["values"] and best["values"]["optimizer.lr"] == 3e-2
    assert replicate["epochs"] == best["epochs"] and replicate["temperature"] == best["temperature"]
    hidden = weights(directory)["backbone.modalities.0.0.weight"].shape[0]
    assert hidden == (3 if best["values"]["backbone.hidden"] == [] else 64)
    tempered = replicate["metrics"]["test_tempered"]["fused"]
    assert tempered["ACC"] == replicate["metrics"]["test"]["fused"]["ACC"] and tempered["NLL"] > 0


def test_a_tuned_replicate_is_the_one_that_the_same_values_train_without_tuning(study: Path, tmp_path: Path) -> None:
    tuned, replicate = trained(study, tmp_path / "a", "method=multimodal", "backbone=linear", TWO_RATES)
    chosen = [f"{key}={value}" for key, value in replicate["tuning"]["chosen"].items()]
    given = ["tuning=none", "trainer.monitor=null", f"trainer.max_epochs={replicate['epochs']}", *chosen]
    plain, alone = trained(study, tmp_path / "b", "method=multimodal", "backbone=linear", *given)
    assert alone["metrics"]["test"] == replicate["metrics"]["test"]
    for name, tensor in weights(tuned).items():
        assert torch.equal(tensor, weights(plain)[name]), name


def test_what_was_chosen_survives_an_interruption_and_not_a_change_of_the_data(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["method=sum_ce_logits", "backbone=linear", TWO_RATES]

    class Killed(Exception):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(run_module, "evaluate", killed)
        with pytest.raises(Killed):
            trained(study, tmp_path / "runs", *more)
    (path,) = (tmp_path / "runs").glob("*/tuning.json")
    content = json.loads(path.read_text())
    content["tuned"]["1"][1]["score"] = -1.0  # the other way round: it is read, and not computed again
    path.write_text(json.dumps(content))
    _, replicate = trained(study, tmp_path / "runs", *more)
    assert replicate["tuning"]["trials"][1]["score"] == -1.0 and replicate["tuning"]["chosen"] == {"optimizer.lr": 3e-2}
    table = pd.read_csv(study / "m0.csv", index_col="id")
    (table * 2 + 1).round(3).to_csv(study / "m0.csv")
    _, replicate = trained(study, tmp_path / "runs", *more)
    assert all(trial["score"] > 0 for trial in replicate["tuning"]["trials"])


def test_a_stopped_run_tries_what_had_not_been_tried(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["method=sum_ce_logits", "backbone=linear", "tuning.grid={optimizer.lr: [1e-2, 3e-2, 1e-1]}"]
    _, expected = trained(study, tmp_path / "undisturbed", *more)
    tried: list[float] = []
    attempt = Tuner._try

    def stopped(self: Tuner, values: dict[str, Any], *rest: Any) -> Trial:
        tried.append(values["optimizer.lr"])
        if len(tried) == 3:
            raise Interrupted(signal.SIGTERM)
        return attempt(self, values, *rest)

    monkeypatch.setattr(Tuner, "_try", stopped)
    with pytest.raises(Interrupted):
        trained(study, tmp_path / "runs", *more)
    _, replicate = trained(study, tmp_path / "runs", *more)
    assert tried == [1e-2, 3e-2, 1e-1, 1e-1]
    assert replicate["tuning"] == expected["tuning"] and replicate["metrics"] == expected["metrics"]


def test_tuned_jobs_of_one_fold_each_become_the_run_of_all_folds_without_training_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run of all folds itself chose otherwise, that fold is trained."""
    more, out = ["method=sum_ce_logits", "backbone=linear", TWO_RATES], tmp_path / "runs"
    whole, _ = trained(study, tmp_path / "whole", *more, "folds=[0,1]")
    for fold in (0, 1):
        trained(study, out, *more, f"folds=[{fold}]")
    with monkeypatch.context() as context:
        context.setattr(Tuner, "_try", None)
        context.setattr(OrdinaryTrainer, "step", None)
        context.setattr(CollapsedTrainer, "step", None)
        gathered, _ = trained(study, out, *more, "folds=[0,1]")
    assert gathered.hash == whole.hash and outcome(gathered.path) == outcome(whole.path)
    trials = gathered.content()["replicates"][0]["tuning"]["trials"]
    other = max(range(2), key=lambda n: trials[n]["score"])
    trials[other]["score"] = -1.0
    tuned = {"data": gathered.content()["data"], "tuned": {"0": trials}}
    gathered.write_text("tuning.json", json.dumps(tuned))
    gathered.result.unlink()
    gathered.checkpoint.unlink()
    again, first = trained(study, out, *more, "folds=[0,1]")
    assert again.path == gathered.path and first["tuning"]["chosen"] == trials[other]["values"]
    assert first["last_loss"] != whole.content()["replicates"][0]["last_loss"]


def test_a_trial_that_diverges_loses_and_all_that_do_are_an_error(study: Path, tmp_path: Path) -> None:
    more = ["method=sum_ce_logits", "backbone=linear", "optimizer=sgd", "optimizer.weight_decay=1"]
    _, replicate = trained(study, tmp_path / "a", *more, "tuning.grid={optimizer.lr: [1e30, 1e-2]}")
    assert replicate["tuning"]["chosen"] == {"optimizer.lr": 1e-2}
    assert (
        replicate["tuning"]["trials"][0]["score"] is None
        and "optimizer.lr" in replicate["tuning"]["trials"][0]["error"]
    )
    with pytest.raises(UserError, match="no trial could be trained") as caught:
        trained(study, tmp_path / "b", *more, "tuning.grid={optimizer.lr: [1e30]}")
    assert isinstance(caught.value.__cause__, TrainingError)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tuning.grid={optimizer.rate: [1]}", "optimizer.rate: AdamW has no such option"),
        ("tuning.grid={trainer.patience: [1]}", "tuning: trainer.patience is no option"),
        ("tuning.grid={optimizer.lr: 1}", "must be a list"),
        ("tuning.inner_folds=13", r"the 13 of tuning\.inner_folds"),
    ],
)
def test_what_cannot_be_tried_is_named(study: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained(study, tmp_path / "runs", "method=sum_ce_logits", override)


def test_every_method_of_the_table_tries_as_many_settings() -> None:
    def trials(experiment: str, method: str, *more: str) -> int:
        settings = RunConfig.parse(compose_config([f"experiment={experiment}", f"method={method}", *more]))
        assert settings.tuning is not None
        return len(settings.tuning.points())

    assert {trials("table_7", method, "backbone=linear") for method in METHODS} == {8}
    assert {trials("table_7_plain", method) for method in PLAIN} == {1}  # a temperature


def test_runs_without_tuning_keep_their_identity() -> None:
    """Of a committed table, from before there was any tuning."""
    planned = planned_run(["experiment=table_5", "dataset=tcga_brca", "method=multimodal"])
    assert planned.hash == "1e51609da2"
