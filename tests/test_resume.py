"""Killed at any moment and started again, a run ends in the numbers of an undisturbed one, bit for bit."""

import io
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import multimodal_loss.training.run as train_module
from conftest import run_training, start_training
from multimodal_loss.command import Interrupted
from multimodal_loss.configuration import compose_config
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training import loop
from multimodal_loss.training.collapsed import CollapsedTrainer
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.loop import TrainingState
from multimodal_loss.training.run import FailedRun, run

Change = Callable[[dict[str, Any]], None]
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_a_sweep_stop_with_a_checkpoint_when_their_parent_is_stopped_or_gone(
    tiny: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    long = [*tiny, "trainer.max_epochs=1000000", "trainer.patience=1000000", "method=sum_ce", "checkpoint_seconds=0.05"]
    process = start_training([*long, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "-m")
    deadline = time.monotonic() + 240
    while not (found := list(tmp_path.glob("runs/*/checkpoint.pt"))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    if number == signal.SIGTERM:
        error = process.communicate(timeout=120)[1]
        assert error.count("error: stopped by SIGTERM; start the same command again to continue") == 1
        assert "Traceback" not in error and not list(tmp_path.glob("runs/.sweep/failure*"))
    assert process.wait(timeout=60) == (143 if number == signal.SIGTERM else -number)
    (checkpoint,) = found
    with RunDirectory(checkpoint.parent).locked(lambda: None):  # waits until the worker has ended
        before = checkpoint.stat().st_mtime_ns
        assert torch.load(checkpoint, weights_only=True)["training"]["state"]["epoch"] > 0
        time.sleep(0.3)
        assert checkpoint.stat().st_mtime_ns == before


def test_a_scheduler_that_gives_notice_finds_a_checkpoint_and_decides(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit's handlers do: one takes note, one ends the job to start it again, one refuses."""
    overrides = [*tiny, "fusion=multimodal", "trainer.path=ordinary", "checkpoint_seconds=1000"]
    expected = run(compose_config([*overrides, f"output_dir={tmp_path}/undisturbed"])).path
    folder = tmp_path / "runs" / expected.name
    told: list[tuple[int, int]] = []

    def handler(number: int, _: object) -> None:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)["training"]["state"]
        told.append((number, state["epoch"]))
        if len(told) == 2:
            raise SystemExit(255)
        if len(told) == 3:
            raise RuntimeError("too often")

    ordinary_step, steps = OrdinaryTrainer.step, 0

    def step(self: OrdinaryTrainer) -> Any:
        nonlocal steps
        steps += 1
        if steps in (5, 9, 13):
            signal.raise_signal(signal.SIGTERM if steps == 5 else signal.SIGUSR2)
        return ordinary_step(self)

    monkeypatch.setattr(OrdinaryTrainer, "step", step)
    kept = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        with pytest.raises(SystemExit):
            run(compose_config(overrides))
        with pytest.raises(Interrupted, match=r"stopped by SIGUSR2 \(too often\)"):
            run(compose_config(overrides))
        assert told == [(signal.SIGTERM, 5), (signal.SIGUSR2, 9), (signal.SIGUSR2, 13)]
        run(compose_config(overrides))
    finally:
        for number, previous in kept.items():
            signal.signal(number, previous)
    assert outcome(folder) == outcome(expected)


def test_two_processes_on_one_run_take_turns(tiny: list[str], tmp_path: Path, undisturbed: Path) -> None:
    both = [start_training([*tiny, *LONG]) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("another process is training" in err for _, err in said) == 1
    assert outcome(tmp_path / "runs" / undisturbed.name) == outcome(undisturbed)


def drop(*keys: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def put(value: object, *keys: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def as_before_digests(change: Change) -> Change:
    def both(content: dict[str, Any]) -> None:
        del content["digest"]
        change(content)

    return both


FOREIGN = {"backbone": {"other.weight": torch.ones(2)}, "fusion": {}}
DAMAGES = {
    "epoch": put(7, "training", "state", "epoch"),
    "best": put((0.0, 3), "training", "state", "stopping", 0),
    "no random state": drop("training", "random", "cpu"),
    "no optimiser": put(None, "training", "trainer"),
    "no history": drop("training", "state", "history"),
    "history": put(torch.ones(1, 4), "training", "state", "history"),
    "other layers": put(FOREIGN, "replicates", 0),
    "another replicate": put(FOREIGN, "replicates", 5),
    "a replicate less": drop("replicates", 1),
    "another run": put("0" * 64, "digest"),
    "old, other layers": as_before_digests(put(FOREIGN, "replicates", 0)),
    "old, no random state": as_before_digests(drop("training", "random", "cpu")),
    "old, no state": as_before_digests(drop("training", "state")),
    "old, text": as_before_digests(put("text", "training")),
}


def test_a_checkpoint_that_is_not_the_one_that_was_written_is_named(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed in any part, of another run, no checkpoint at all: never a traceback, and never other numbers."""
    config = compose_config([*tiny, "fusion=multimodal", "trainer.path=ordinary", "checkpoint_seconds=0"])
    saved = loop.save_checkpoint

    def killed(directory: RunDirectory, replicates: Any, trainer: Any, state: TrainingState) -> None:
        saved(directory, replicates, trainer, state)
        if replicates[0].replicate_id == 1 and state.epoch == 5:
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(Killed):
            run(config)
    (path,) = tmp_path.glob("runs/*/checkpoint.pt")
    good = path.read_bytes()
    for name, change in DAMAGES.items():
        content = torch.load(io.BytesIO(good), weights_only=True)
        change(content)
        torch.save(content, path)
        with pytest.raises(FailedRun, match=r"^cannot read .*checkpoint\.pt \(.*\); delete it") as caught:
            run(config)
            pytest.fail(name)
        assert "\n" not in str(caught.value)
    for damaged in (b"", b"damaged", good[: len(good) // 2], good[:200] + b"\0" * 99 + good[299:]):
        path.write_bytes(damaged)
        with pytest.raises(FailedRun, match=r"^cannot read .*checkpoint\.pt"):
            run(config)
    path.write_bytes(good)
    assert outcome(run(config).path)["status"] == "done"


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


def test_jobs_of_one_seed_each_become_the_run_of_all_seeds_without_training_again(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one of them lacks, that seed alone is trained; jobs on other data do not count."""
    ordinary = [*tiny, "fusion=multimodal", "trainer.path=ordinary", "trainer.max_epochs=4"]
    whole = run(compose_config([*ordinary, "seeds=[0,1,2]", f"output_dir={tmp_path}/whole"]))
    alone = [run(compose_config([*ordinary, f"seeds=[{seed}]"])) for seed in (0, 1, 2)]
    result = json.loads(alone[1].result.read_text())
    alone[1].write_result(result | {"data": {"fingerprint": "other", "version": 1}})
    trained: list[int] = []
    step = OrdinaryTrainer.step

    def noted(self: OrdinaryTrainer) -> torch.Tensor | None:
        trained.append(self._replicate.seed)
        return step(self)

    monkeypatch.setattr(OrdinaryTrainer, "step", noted)
    gathered = run(compose_config([*ordinary, "seeds=[0,1,2]"]))
    assert trained == [1] * 4
    assert gathered.hash == whole.hash and outcome(gathered.path) == outcome(whole.path)


def test_jobs_of_one_seed_each_are_gathered_where_all_seeds_train_together(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = [*tiny, "fusion=multimodal", "trainer.max_epochs=4"]
    whole = run(compose_config([*fast, "seeds=[0,1,2]", f"output_dir={tmp_path}/whole"]))
    for seed in (0, 1, 2):
        run(compose_config([*fast, f"seeds=[{seed}]"]))
    monkeypatch.setattr(CollapsedTrainer, "step", None)
    gathered = run(compose_config([*fast, "seeds=[0,1,2]"]))
    one, other = outcome(gathered.path), outcome(whole.path)
    one["history"].sort()  # seed by seed, where it was epoch by epoch
    other["history"].sort()
    assert gathered.hash == whole.hash and one == other
