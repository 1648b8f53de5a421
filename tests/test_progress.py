"""What is on the screen while something runs: which job, replicate and epoch, and something at once."""

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from multimodal_loss.command import JOB
from multimodal_loss.train import _number_of_jobs
from multimodal_loss.training.progress import Progress


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_the_line_says_which_job_replicate_and_epoch_and_how_much_is_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv(JOB, "job 3 of 7")
    with Progress("a-run", replicates=5, most=100) as progress:
        progress.begin(1, 1)
        progress.epoch(10, {1: 0.5}, 0.0)
        clock.now += 40
        progress.epoch(30, {1: 0.25}, 3700.0)
    printed = sys.stderr.getvalue()  # type: ignore[attr-defined]
    line = printed.splitlines()[-1]
    assert line.startswith("job 3 of 7  a-run  replicate 2 of 5  epoch 30 of at most 100  loss 0.25000")
    assert "0.5 epochs/s" in line and line.endswith("1:01 h, at most 2:20 min left")  # 70 epochs at a half a second


def test_replicates_that_train_together_are_named_together_and_all_of_them_not_at_all(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(JOB, raising=False)
    for replicates, which in ((5, "replicates 3 to 4 of 5  "), (2, "")):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with Progress("a-run", replicates=replicates) as progress:
            progress.begin(2 if which else 0, 2)
            progress.epoch(1, {2: 0.5, 3: 0.5}, 0.0)
        assert sys.stderr.getvalue().startswith(f"a-run  {which}epoch 1  loss")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "sweeper", "jobs"),
    [
        (["a=1,2,3", "b=x", "c=choice(4,5)"], {"params": None}, 6),
        (["a=1"], {"params": {"a": "1,2,3", "b": "range(0,4)"}}, 4),  # what is typed replaces the experiment's
        (["a=[1,2]", "b={c:1,d:2}"], {"params": None}, 1),
        (["a=1"], {"params": {"b": "interval(0,1)"}, "n_trials": 20}, 20),
    ],
)
def test_the_jobs_of_a_sweep_are_counted_beforehand(task: list[str], sweeper: dict[str, object], jobs: int) -> None:
    config = OmegaConf.create({"hydra": {"overrides": {"task": task}, "sweeper": sweeper}})
    assert _number_of_jobs(config) == jobs


def test_something_is_on_the_screen_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit(0)")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[1] / "src")])
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "multimodal_loss.train"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stderr=slave, timeout=60)
    os.close(slave)
    assert ended.returncode == 0
    assert os.read(master, 1000) == b"multimodal_loss.train: loading ...\r\n"
    os.close(master)
