"""Launchers of sweeps: what jobs in processes of their own leave word of, and the presets for clusters.

scripts/try_launchers.sh tries them on a real Slurm and a real Ray.
"""

import importlib.util
import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import submitit
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from conftest import run_training
from multimodal_loss import train
from multimodal_loss.configuration import CONFIG_DIR, compose_config
from multimodal_loss.errors import TrainingError
from multimodal_loss.training.run import run


def test_jobs_of_processes_that_nobody_watches_leave_word(tiny: list[str], tmp_path: Path) -> None:
    """Through the output folder: the run directory of one job on standard output, and one line of what is wrong."""
    sweep = ["hydra/launcher=submitit_local", "fusion=sum_ce", "optimizer.lr=1e-3,1e30", "trainer.max_epochs=5"]
    ended = run_training([*tiny, *sweep], "-m")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: job optimizer.lr=1e+30: ")
    assert "try a smaller optimizer.lr" in ended.stderr and ended.stderr.count("\n") == 1
    (line,) = ended.stdout.splitlines()
    assert (Path(line) / "predictions.npz").exists()
    assert not list(tmp_path.glob("runs/.sweep/failure*"))


def test_a_job_that_ended_without_a_word_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, or lost with its node. Whatever else a launcher raises is a bug, whose traceback is wanted."""

    def lost(error: Exception) -> Any:
        def sweep() -> None:
            raise error

        return sweep

    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(train, "_here", False)
    text = (
        "Job 7_3 (task: 0)\nhas not produced any output (state: OUT_OF_MEMORY)\nError stream produced:\n---\n"
        + "x" * 2000
    )
    monkeypatch.setattr(train, "_hydra_main", lost(submitit.core.utils.UncompletedJobError(text)))
    with pytest.raises(
        TrainingError, match=r"Job 7_3 .*state: OUT_OF_MEMORY\); .*start the same command again"
    ) as caught:
        train._train()
    assert len(str(caught.value)) < 300
    monkeypatch.setattr(train, "_hydra_main", lost(KeyError("a bug")))
    with pytest.raises(KeyError):
        train._train()


def test_a_search_is_given_the_validation_accuracy_and_nothing_of_the_test_part(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_here", True)
    monkeypatch.setattr(train.HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.RUN))
    config = compose_config([*tiny, "fusion=sum_ce"])
    given = train._take(config)
    directory = run(config).path
    replicates = json.loads((directory / "result.json").read_text())["replicates"]
    mean = {
        split: statistics.fmean(replicate["metrics"][split]["fused"]["ACC"] for replicate in replicates)
        for split in ("validation", "test")
    }
    assert given == pytest.approx(mean["validation"]) and given != pytest.approx(mean["test"])


def test_a_search_on_data_without_a_validation_part_ends_at_its_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.csv", "b.csv"):
        pd.DataFrame({"id": range(30), "x": [k % 7 for k in range(30)]}).to_csv(tmp_path / name, index=False)
    pd.DataFrame({"id": range(30), "label": ["u", "v"] * 15}).to_csv(tmp_path / "labels.csv", index=False)
    overrides = ["dataset=tables", f"dataset.path={tmp_path}", f"data_dir={tmp_path}/data", "method=logistic"]
    config = compose_config([*overrides, "tuning=none", "folds=[0]", f"output_dir={tmp_path}/runs", "threads=1"])
    monkeypatch.setattr(train, "_here", True)
    asking = {RunMode.MULTIRUN: "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", RunMode.RUN: "any"}
    for mode, target in asking.items():
        settings = SimpleNamespace(mode=mode, sweeper=SimpleNamespace(_target_=target), job=SimpleNamespace(num=0))
        monkeypatch.setattr(train.HydraConfig, "get", lambda settings=settings: settings)
        if mode == RunMode.RUN:
            assert train._take(config) is None
            continue
        with pytest.raises(SystemExit) as caught:
            train._take(config)
        assert caught.value.code == 2
        assert "these data have no validation part" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("hydra/*/*.yaml")), ids=lambda path: path.stem)
def test_presets_have_no_option_that_their_plugin_does_not_know(path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{PLUGINS[path.stem.partition('_')[0]]}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", [f"hydra/{path.parent.name}={path.stem}"], return_hydra_config=True)
    assert config.hydra[path.parent.name]._target_.startswith("hydra_plugins")


PLUGINS = {"slurm": "submitit_launcher", "ray": "ray_launcher", "optuna": "optuna_sweeper"}


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="it is installed")
def test_a_preset_whose_plugin_is_not_installed_says_what_to_install(tiny: list[str]) -> None:
    ended = run_training([*tiny, "hydra/launcher=ray_local", "fusion=sum_ce"], "-m")
    assert ended.returncode == 2
    cure = "pip install 'multimodal-loss[ray]'"
    assert ended.stderr == f"error: hydra/launcher=ray: its plugin is not installed; {cure}\n"
