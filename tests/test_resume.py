"""Killed at any moment and started again, a run ends in the numbers of an undisturbed one, bit for bit."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import multimodal_loss.training.run as train_module
from conftest import run_training, start_training
from multimodal_loss.configuration import compose_config
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training import loop
from multimodal_loss.training.loop import TrainingState
from multimodal_loss.training.run import run

LONG = ("trainer.max_epochs=1000", "trainer.patience=1000", "optimizer.lr=1e-3", "fusion=multimodal")


def outcome(path: Path) -> dict[str, Any]:
    """Everything of a run but times and provenance."""
    result = json.loads((path / "result.json").read_text())
    for replicate in result["replicates"]:
        del replicate["seconds"]
    history = [line.split(",")[:3] for line in (path / "history.csv").read_text().splitlines()]
    predictions = {key: array.tobytes() for key, array in np.load(path / "predictions.npz").items()}
    weights = torch.load(path / "checkpoint.pt", weights_only=True)["replicates"]
    tensors = {(n, p, k): t.numpy().tobytes() for n, s in weights.items() for p, d in s.items() for k, t in d.items()}
    return {
        "status": result["status"],
        "replicates": result["replicates"],
        "history": history,
        "predictions": predictions,
        "weights": tensors,
    }


def stop_after_a_checkpoint(process: "subprocess.Popen[str]", folder: Path, number: signal.Signals) -> str:
    """Send the signal once the process has written a checkpoint of its own; return what it said."""
    checkpoint = folder / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    deadline = time.monotonic() + 100
    while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


@pytest.fixture
def undisturbed(tiny: list[str], tmp_path: Path) -> Path:
    """The run directory of the same config, trained in one go elsewhere."""
    return run(compose_config([*tiny, *LONG, f"output_dir={tmp_path}/undisturbed"])).path


@pytest.mark.parametrize("path", ["auto", "ordinary"])
def test_sigkill(tiny: list[str], tmp_path: Path, path: str) -> None:
    overrides = [*tiny, *LONG, f"trainer.path={path}"]
    expected = run(compose_config([*overrides, f"output_dir={tmp_path}/undisturbed"])).path
    folder = tmp_path / "runs" / expected.name
    for seconds in (0.2, 0.05):
        process = start_training([*overrides, f"checkpoint_seconds={seconds}"])
        stop_after_a_checkpoint(process, folder, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "result.json").exists()
    assert run_training(overrides).returncode == 0
    assert outcome(folder) == outcome(expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_stop_checkpoints_at_once(
    tiny: list[str], tmp_path: Path, undisturbed: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "runs" / undisturbed.name
    process = start_training([*tiny, *LONG, "checkpoint_seconds=0.05"])
    message = stop_after_a_checkpoint(process, folder, number)
    assert process.returncode == 128 + number
    assert message.strip() == f"error: stopped by {number.name}; start the same command again to continue"
    epoch = torch.load(folder / "checkpoint.pt", weights_only=True)["training"]["state"]["epoch"]
    assert 0 < epoch < 1000
    assert run_training([*tiny, *LONG]).returncode == 0
    assert outcome(folder) == outcome(undisturbed)


def test_two_processes_on_one_run_take_turns(tiny: list[str], tmp_path: Path, undisturbed: Path) -> None:
    both = [start_training([*tiny, *LONG]) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("another process is training" in err for _, err in said) == 1
    assert outcome(tmp_path / "runs" / undisturbed.name) == outcome(undisturbed)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("batch_size", [32, "null"])
def test_a_monitored_run_of_several_replicates_keeps_its_best_iterate(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int | str
) -> None:
    """Killed in replicate 1, well after its best epoch, and once more while replicate 0 is evaluated again."""
    config = [*tiny, "fusion=multimodal", "trainer.path=ordinary", f"trainer.batch_size={batch_size}"]
    config += ["trainer.monitor=validation_loss", "trainer.max_epochs=60", "trainer.patience=60", "optimizer.lr=3e-2"]
    expected = run(compose_config([*config, f"output_dir={tmp_path}/undisturbed"])).path
    checkpointed, evaluate = loop.save_checkpoint, train_module.evaluate

    def killed_in_replicate_1(directory: RunDirectory, replicates: Any, stack: Any, state: TrainingState) -> None:
        checkpointed(directory, replicates, stack, state)
        if stack is not None and replicates[0].replicate_id == 1 and state.epoch == 55:
            best = state.best[1]["backbone"]
            now = replicates[0].state_dict()["backbone"]
            assert any(not torch.equal(best[name], now[name]) for name in best)  # it is not the last iterate
            raise Killed

    def killed_in_evaluation(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(loop, "save_checkpoint", killed_in_replicate_1)
        with pytest.raises(Killed):
            run(compose_config([*config, "checkpoint_seconds=0"]))
    with monkeypatch.context() as context:
        context.setattr(train_module, "evaluate", killed_in_evaluation)
        with pytest.raises(Killed):
            run(compose_config(config))
    monkeypatch.setattr(train_module, "evaluate", evaluate)
    assert outcome(run(compose_config(config)).path) == outcome(expected)
