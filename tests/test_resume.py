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

from conftest import run_training, start_training
from multimodal_loss.configuration import compose_config
from multimodal_loss.train import run

LONG = ("trainer.max_epochs=1000", "trainer.patience=1000", "trainer.lr=1e-3", "fusion=multimodal")


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
