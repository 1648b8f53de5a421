"""Every test runs on one torch thread: two on a busy machine make tiny tensors a hundred times slower."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from multimodal_loss.training.group_trainer import GroupTrainer  # tests that train nothing need not wait for it

ROOT = Path(__file__).resolve().parents[1]

# A run of a second: small data, all parts.
TINY = (
    "dataset.num_features=20",
    "dataset.num_informative=5",
    "dataset.train_size=80",
    "dataset.validation_size=20",
    "dataset.test_size=60",
    "dataset.data_seed=3",
    "backbone.hidden=[8,6]",
    "trainer.max_epochs=40",
    "optimizer.lr=5e-3",
    "seeds=[0,1]",
    "threads=1",
    "device=cpu",
    "progress=false",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides of a tiny run whose files stay in the test's folder."""
    return [*TINY, f"output_dir={tmp_path}/runs", f"data_dir={tmp_path}/data"]


def start_training(overrides: Sequence[str], *flags: str) -> "subprocess.Popen[str]":
    """`python -m multimodal_loss.train` in a process of its own."""
    command = [sys.executable, "-m", "multimodal_loss.train", *flags, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def run_training(overrides: Sequence[str], *flags: str) -> "subprocess.CompletedProcess[str]":
    process = start_training(overrides, *flags)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Killed(Exception):
    """Stands for SIGKILL between two steps of training."""


def kill_after(steps: int | None, trainer: "GroupTrainer", monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a trainer do so many steps, and raise Killed instead of the next; None: never."""
    ordinary_step, left = trainer.step, steps

    def step() -> Tensor | None:
        nonlocal left
        if left == 0:
            raise Killed
        left = None if left is None else left - 1
        return ordinary_step()

    monkeypatch.setattr(trainer, "step", step)
