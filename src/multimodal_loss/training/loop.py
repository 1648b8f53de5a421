"""The epoch loop: early stopping, history, checkpoints, signals. It knows no dataset, backbone or fusion.

The replicates of a run train in groups, one group after another: all together where the fast path holds, otherwise each
alone. `TrainingState` and the checkpoint span the whole run, so that a killed one continues in the group it was in.
"""

import copy
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from multimodal_loss.command import Interrupted, asked_to_stop
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.errors import TrainingError, UserError, one_line
from multimodal_loss.files import write_atomically
from multimodal_loss.fusion.base import NonFiniteScores
from multimodal_loss.results.run_directory import RunDirectory, is_logged
from multimodal_loss.training.group_trainer import GroupTrainer
from multimodal_loss.training.replicate import Replicate


class Observer(Protocol):
    """Told of progress: the terminal and the tracker."""

    def epoch(
        self, epoch: int, losses: dict[int, float], seconds: float, monitored: dict[int, float] | None = None
    ) -> None:
        """Losses by replicate id of the replicates that still train, and what is monitored on their validation parts,
        where anything is.
        """
        ...


@dataclass
class EarlyStopping:
    """A step is progress only if its loss is below the best one, by min_delta at least; `patience` steps without end
    the replicate.
    """

    min_delta: float
    patience: int
    best: float = math.inf
    stale: int = 0

    def should_stop(self, loss: float) -> bool:
        if loss < self.best and loss <= self.best - self.min_delta:
            self.best, self.stale = loss, 0
        else:
            self.stale += 1
        return self.stale >= self.patience


@dataclass
class TrainingState:
    """What a resumed run needs beside the weights of the group that trains now.

    `epoch` and `seconds` are that group's. By replicate id: `stopping` of the group's replicates; `stopped`, why
    and when each ended; `fingerprints` of the data each trains on; `best`, weights where the best iterate is wanted,
    and `kept`, what `trainer.keep` was for them; `weights`, of the replicates that are not in the group but in the
    checkpoint.
    """

    epoch: int = 0
    seconds: float = 0.0
    stopping: dict[int, EarlyStopping] = field(default_factory=dict)
    stopped: dict[int, dict[str, Any]] = field(default_factory=dict)
    fingerprints: dict[int, str] = field(default_factory=dict)
    history: list[tuple[float, float, float, float]] = field(default_factory=list)
    best: dict[int, dict[str, Any]] = field(default_factory=dict)
    kept: dict[int, float] = field(default_factory=dict)
    weights: dict[int, dict[str, Any]] = field(default_factory=dict)
    trainer: dict[str, Any] | None = None  # of the group that a checkpoint was written in
    random: dict[str, Tensor] = field(default_factory=dict)  # torch's generators, by device type

    def keep(self, replicates: Sequence[Replicate]) -> None:
        """Take over the weights of a group that has ended, for the checkpoints of those that follow."""
        on_cpu = torch.device("cpu")
        self.weights |= {r.replicate_id: {k: _moved(v, on_cpu) for k, v in r.final_state().items()} for r in replicates}

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "stopping": {number: (s.best, s.stale) for number, s in self.stopping.items()},
            "stopped": self.stopped,
            "fingerprints": self.fingerprints,
            "best": self.best,
            "kept": self.kept,
            "history": torch.tensor(self.history, dtype=torch.float64).reshape(-1, 4),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.seconds, self.stopped = state["epoch"], state["seconds"], state["stopped"]
        # min_delta and patience are the config's: `train` sets them.
        self.stopping = {n: EarlyStopping(0.0, 1, best, stale) for n, (best, stale) in state["stopping"].items()}
        self.best, self.kept, self.fingerprints = state["best"], state.get("kept", {}), state["fingerprints"]
        self.history = [tuple(row) for row in state["history"].tolist()]


def train(
    replicates: Sequence[Replicate],
    trainer: GroupTrainer,
    options: TrainerConfig,
    run: RunDirectory,
    checkpoint_seconds: float = 60.0,
    observers: Sequence[Observer] = (),
    state: TrainingState | None = None,
) -> TrainingState:
    """Train one group of replicates until each has stopped, and return `state`, changed.

    `state` is the run's: what `resume` gave, or this returned for the group before; None resumes. On return the
    replicates' modules hold the weights to evaluate. Raises TrainingError for a loss that is not finite, UserError if
    the data are not those of the checkpoint, Interrupted after SIGTERM or SIGINT (with the checkpoint written).
    """
    state = resume(run) if state is None else state
    _check_data(replicates, run, state)
    _enter_group(replicates, trainer, options, run, state)
    with caught_signals() as caught:
        started = last_checkpoint = time.monotonic()
        before = state.seconds
        while trainer.active:
            try:
                losses = trainer.step()
                state.seconds = before + time.monotonic() - started
                if losses is not None:
                    _end_epoch(replicates, trainer, options, state, losses, observers)
            except NonFiniteScores as error:  # on a CPU a fusion says so before its loss does
                names = " or ".join(str(replicates[position].replicate_id) for position in trainer.active)
                raise TrainingError(
                    f"the loss of replicate {names} became nan in epoch {state.epoch + 1}; try a smaller optimizer.lr"
                ) from error
            if asked_to_stop():
                caught.append(signal.SIGTERM)
            if caught or time.monotonic() - last_checkpoint > checkpoint_seconds:
                save_checkpoint(run, replicates, trainer, state)
                last_checkpoint = time.monotonic()
                caught.pass_on()
    trainer.synchronise()
    for replicate in replicates:  # of a group that is in the checkpoint after this one it is still wanted
        state.best.pop(replicate.replicate_id, None)
    return state


def _check_data(replicates: Sequence[Replicate], run: RunDirectory, state: TrainingState) -> None:
    """Raise UserError where a checkpoint's weights were trained on other data, or began from others, than now."""
    for replicate in replicates:
        if state.fingerprints.setdefault(replicate.replicate_id, replicate.source) != replicate.source:
            raise UserError(
                f"the data or initial weights of replicate {replicate.replicate_id} changed since {run.checkpoint} was "
                "written; delete that file to train this run from the start"
            )


def _enter_group(
    replicates: Sequence[Replicate],
    trainer: GroupTrainer,
    options: TrainerConfig,
    run: RunDirectory,
    state: TrainingState,
) -> None:
    """Begin the group, or make it what it was at the checkpoint: in the middle, or at its end."""
    numbers = [r.replicate_id for r in replicates]
    if not all(number in state.weights for number in numbers):
        torch.manual_seed(replicates[0].seed)  # what dropout draws
        state.epoch, state.seconds, state.best, state.kept = 0, 0.0, {}, {}
        state.stopping = {number: EarlyStopping(options.min_delta, options.patience) for number in numbers}
        return
    with _reading(run):  # the weights of layers, or of an optimiser, that the code of today has not
        for replicate in replicates:
            replicate.load_state_dict(state.weights.pop(replicate.replicate_id))
        if all(number in state.stopped for number in numbers):
            trainer.active = []
            return
        assert state.trainer is not None
        trainer.load_state_dict(state.trainer)
        for stopping in state.stopping.values():
            stopping.min_delta, stopping.patience = options.min_delta, options.patience
        _set_random(state.random, _device(replicates))


def _end_epoch(
    replicates: Sequence[Replicate],
    trainer: GroupTrainer,
    options: TrainerConfig,
    state: TrainingState,
    losses: Tensor,
    observers: Sequence[Observer],
) -> None:
    numbers = [replicates[p].replicate_id for p in trainer.active]
    by_number = dict(zip(numbers, losses.tolist(), strict=True))
    state.epoch += 1
    _check_finite(by_number, state.epoch)
    watched, better = by_number, dict.fromkeys(numbers, False)
    if options.monitor is not None:
        values = trainer.validation_values([options.monitor, *filter(None, [options.keep])])
        watched = dict(zip(numbers, values[0], strict=True))
        if options.keep is not None:
            kept = dict(zip(numbers, values[1], strict=True))
            better = {number: value < state.kept.get(number, math.inf) for number, value in kept.items()}
            state.kept |= {number: value for number, value in kept.items() if better[number]}
    trainer.end_epoch([watched[number] for number in numbers])
    _retire_stopped(replicates, trainer, state, by_number, watched, better, options)
    for observer in observers:
        observer.epoch(state.epoch, by_number, state.seconds, None if options.monitor is None else watched)


def _retire_stopped(
    replicates: Sequence[Replicate],
    trainer: GroupTrainer,
    state: TrainingState,
    losses: dict[int, float],
    watched: dict[int, float],
    better: dict[int, bool],
    options: TrainerConfig,
) -> None:
    done, improved = [], []
    for position in trainer.active:
        number = replicates[position].replicate_id
        stalled = state.stopping[number].should_stop(watched[number])
        reason = "no_progress" if stalled else "max_epochs" if state.epoch >= options.max_epochs else None
        if state.stopping[number].stale == 0 if options.keep is None else better[number]:
            improved.append(replicates[position])
        if reason is not None or is_logged(state.epoch):
            state.history.append((number, state.epoch, losses[number], state.seconds))
        if reason is not None:
            summary = {"epochs": state.epoch, "stopped": reason, "seconds": state.seconds, "last_loss": losses[number]}
            state.stopped[number] = summary
            done.append(position)
    if options.monitor is not None and improved:
        trainer.synchronise()
        state.best |= {r.replicate_id: copy.deepcopy(r.state_dict()) for r in improved}
    if done:
        trainer.retire(done)
    for position in done:
        if replicates[position].replicate_id in state.best:
            replicates[position].load_state_dict(state.best[replicates[position].replicate_id])


def _check_finite(losses: dict[int, float], epoch: int) -> None:
    for number, loss in losses.items():
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of replicate {number} became {loss} in epoch {epoch}; try a smaller optimizer.lr"
            )


class Caught(list[int]):
    """Signals that came while training, in their order, and who was to be told of them."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def pass_on(self) -> None:
        """Tell them, now that the checkpoint is written. What they raise stops training; a scheduler's handler may
        return, and training goes on (submitit's, of the SIGTERM that comes a while before the job is ended).
        """
        while self:
            number = signal.Signals(self.pop(0))
            handler = self.handlers.get(number)
            if not callable(handler) or handler is signal.default_int_handler:
                raise Interrupted(number)
            try:
                handler(number, None)
            except Exception as error:  # a scheduler that will not start the job again
                raise Interrupted(number, one_line(error, 200)) from error


@contextmanager
def caught_signals() -> Iterator[Caught]:
    """Collect SIGTERM and SIGINT instead of dying of them, and the signals by which a scheduler gives notice, where one
    waits for them. Outside the main thread signals keep their meaning.
    """
    caught = Caught()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            handler = signal.getsignal(number)
            if callable(handler) or number in (signal.SIGTERM, signal.SIGINT):
                caught.handlers[number] = handler
                signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        for number, handler in caught.handlers.items():
            signal.signal(number, handler)


def save_checkpoint(
    run: RunDirectory, replicates: Sequence[Replicate], trainer: GroupTrainer | None, state: TrainingState
) -> None:
    """Weights of backbone and fusion by replicate id, and what continuing needs; no trainer: the group has ended."""
    if trainer is not None:
        trainer.synchronise()
    content: dict[str, Any] = {
        "replicates": {**state.weights, **{r.replicate_id: r.state_dict() for r in replicates}},
        "training": {
            "state": state.state_dict(),
            "trainer": None if trainer is None else trainer.state_dict(),
            "random": {} if trainer is None else _random(_device(replicates)),
        },
    }
    content["digest"] = _digest(run, content)
    write_atomically(run.checkpoint, lambda file: torch.save(content, file))
    run.write_history(state.history)


def resume(run: RunDirectory) -> TrainingState:
    """The state that the run's checkpoint holds; a fresh one if there is none."""
    state = TrainingState()
    if not run.checkpoint.exists():
        return state
    with _reading(run):
        content = torch.load(run.checkpoint, map_location="cpu", weights_only=True)
        told = content.pop("digest", None)  # of a run that an earlier version began there is none
        if told not in (None, _digest(run, content)):
            raise ValueError("changed since it was written, or of another run")
        training = content["training"]
        state.weights, state.trainer, state.random = content["replicates"], training["trainer"], training["random"]
        state.load_state_dict(training["state"])
    return state


@contextmanager
def _reading(run: RunDirectory) -> Iterator[None]:
    """Whatever a damaged, or a foreign, checkpoint makes torch raise becomes one line."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"cannot read {run.checkpoint} ({type(error).__name__}: {one_line(error, 100)}); delete it to train this "
            "run from the start"
        ) from error


def _digest(run: RunDirectory, content: dict[str, Any]) -> str:
    """Of the run that a checkpoint is of, and of everything in it."""
    digest = hashlib.sha256(run.hash.encode())

    def add(node: Any) -> None:
        if isinstance(node, Tensor):
            digest.update(f"{node.dtype}{tuple(node.shape)}".encode())
            digest.update(node.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(node, Mapping):
            digest.update(repr(sorted(map(repr, node))).encode())
            for key in sorted(node, key=repr):
                add(node[key])
        elif isinstance(node, (list, tuple)):
            digest.update(f"{len(node)}".encode())
            for one in node:
                add(one)
        else:
            digest.update(repr(node).encode())

    add(content)
    return digest.hexdigest()


def _moved(weights: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.detach().to(device, copy=True) for name, tensor in weights.items()}


def _device(replicates: Sequence[Replicate]) -> torch.device:
    return next(replicates[0].backbone.parameters()).device


def _random(device: torch.device) -> dict[str, Tensor]:
    """States of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_random(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
