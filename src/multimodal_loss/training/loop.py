"""The epoch loop: early stopping, history, checkpoints, signals. It knows no dataset, backbone or fusion."""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch

from multimodal_loss.errors import UserError, require_number
from multimodal_loss.results.run_directory import RunDirectory, write_atomically
from multimodal_loss.training.replicate import Replicate
from multimodal_loss.training.stack import Stack


class TrainingError(UserError):
    """The run cannot go on: a loss that is not finite."""


class Interrupted(Exception):
    """A signal asked the run to stop; it has written its checkpoint."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; start the same command again to continue")
        self.signal_number = signal_number


class Observer(Protocol):
    """Told of progress: the terminal and the tracker."""

    def epoch(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        """Losses by replicate number of the replicates that still train."""
        ...


@dataclass
class EarlyStopping:
    """A step is progress only if its loss is at most best - min_delta; `patience` steps without end the replicate."""

    min_delta: float
    patience: int
    best: float = math.inf
    stale: int = 0

    def should_stop(self, loss: float) -> bool:
        if loss <= self.best - self.min_delta:
            self.best, self.stale = loss, 0
        else:
            self.stale += 1
        return self.stale >= self.patience


@dataclass
class TrainingState:
    """What a resumed run needs beside weights and moments. `stopped` says, by replicate number, why and when."""

    epoch: int = 0
    seconds: float = 0.0
    stopping: dict[int, EarlyStopping] = field(default_factory=dict)
    stopped: dict[int, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[float, float, float, float]] = field(default_factory=list)
    best: dict[int, dict[str, Any]] = field(default_factory=dict)  # weights by number, where the best iterate is wanted

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "stopping": {number: (s.best, s.stale) for number, s in self.stopping.items()},
            "stopped": self.stopped,
            "best": self.best,
            "history": torch.tensor(self.history, dtype=torch.float64).reshape(-1, 4),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.seconds, self.stopped = state["epoch"], state["seconds"], state["stopped"]
        for number, (best, stale) in state["stopping"].items():
            self.stopping[number].best, self.stopping[number].stale = best, stale
        self.best = state["best"]
        self.history = [tuple(row) for row in state["history"].tolist()]


@dataclass(frozen=True)
class LoopOptions:
    """`checkpoint_seconds`: the most that a killed run loses. `monitor`: None for the training loss and the last
    iterate; "validation_loss" to stop on that and end with the weights that had the best one.
    """

    max_epochs: int
    min_delta: float
    patience: int
    checkpoint_seconds: float = 60.0
    monitor: str | None = None

    def __post_init__(self) -> None:
        require_number("trainer.max_epochs", self.max_epochs, positive=True, integer=True)
        require_number("trainer.patience", self.patience, positive=True, integer=True)
        require_number("trainer.min_delta", self.min_delta)
        require_number("checkpoint_seconds", self.checkpoint_seconds)
        if self.monitor not in (None, "validation_loss"):
            raise UserError(f"trainer.monitor={self.monitor}: must be null (training loss) or validation_loss")


def is_logged(epoch: int) -> bool:
    """Which epochs history keeps beside each replicate's last: the first 100, then every 10th."""
    return epoch <= 100 or epoch % 10 == 0


def train(
    replicates: Sequence[Replicate],
    stack: Stack,
    options: LoopOptions,
    run: RunDirectory,
    observers: Sequence[Observer] = (),
) -> TrainingState:
    """Train until every replicate has stopped, continuing from the run's checkpoint if there is one.

    On return the replicates' modules hold the weights to evaluate. Raises TrainingError for a loss that is not
    finite, Interrupted after SIGTERM or SIGINT (with the checkpoint written).
    """
    state = TrainingState(stopping={r.number: EarlyStopping(options.min_delta, options.patience) for r in replicates})
    load_checkpoint(run, replicates, stack, state)
    with caught_signals() as caught:
        started = last_checkpoint = time.monotonic()
        before = state.seconds
        while stack.active:
            numbers = [replicates[p].number for p in stack.active]
            losses = dict(zip(numbers, stack.step().tolist(), strict=True))
            state.epoch += 1
            state.seconds = before + time.monotonic() - started
            _check_finite(losses, state.epoch)
            watched = losses
            if options.monitor == "validation_loss":
                watched = dict(zip(numbers, stack.validation_losses().tolist(), strict=True))
            _retire_stopped(replicates, stack, state, losses, watched, options)
            for observer in observers:
                observer.epoch(state.epoch, losses, state.seconds)
            if caught or time.monotonic() - last_checkpoint > options.checkpoint_seconds:
                save_checkpoint(run, replicates, stack, state)
                last_checkpoint = time.monotonic()
            if caught:
                raise Interrupted(caught[0])
    stack.synchronise()
    return state


def _retire_stopped(
    replicates: Sequence[Replicate],
    stack: Stack,
    state: TrainingState,
    losses: dict[int, float],
    watched: dict[int, float],
    options: LoopOptions,
) -> None:
    done, improved = [], []
    for position in stack.active:
        number = replicates[position].number
        stalled = state.stopping[number].should_stop(watched[number])
        reason = "no_progress" if stalled else "max_epochs" if state.epoch >= options.max_epochs else None
        if state.stopping[number].stale == 0:
            improved.append(replicates[position])
        if reason is not None or is_logged(state.epoch):
            state.history.append((number, state.epoch, losses[number], state.seconds))
        if reason is not None:
            summary = {"epochs": state.epoch, "stopped": reason, "seconds": state.seconds, "last_loss": losses[number]}
            state.stopped[number] = summary
            done.append(position)
    if options.monitor is not None and improved:
        stack.synchronise()
        state.best |= {r.number: copy.deepcopy(r.state_dict()) for r in improved}
    if done:
        stack.retire(done)
    for position in done:
        if replicates[position].number in state.best:
            replicates[position].load_state_dict(state.best[replicates[position].number])


def _check_finite(losses: dict[int, float], epoch: int) -> None:
    for number, loss in losses.items():
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of replicate {number} became {loss} in epoch {epoch}; try a smaller trainer.lr"
            )


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them. Outside the main thread signals keep their meaning."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)

    previous: dict[signal.Signals, Callable[..., Any] | int | None] = {
        s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def save_checkpoint(
    run: RunDirectory, replicates: Sequence[Replicate], stack: Stack | None, state: TrainingState
) -> None:
    """Weights of backbone and fusion by replicate number, and what continuing needs; no stack: training is over."""
    if stack is not None:
        stack.synchronise()
    content: dict[str, Any] = {
        "replicates": {r.number: r.state_dict() for r in replicates},
        "training": {"state": state.state_dict(), "stack": None if stack is None else stack.state_dict()},
    }
    write_atomically(run.checkpoint, lambda file: torch.save(content, file))
    run.write_history(state.history)


def load_checkpoint(run: RunDirectory, replicates: Sequence[Replicate], stack: Stack, state: TrainingState) -> None:
    """Continue where the run's checkpoint left; do nothing if there is none."""
    if not run.checkpoint.exists():
        return
    try:
        device = next(replicates[0].backbone.parameters()).device
        content = torch.load(run.checkpoint, map_location=device, weights_only=True)
        weights, training = content["replicates"], content["training"]
    except Exception as error:  # whatever a damaged file makes torch.load raise
        raise UserError(
            f"cannot read {run.checkpoint} ({type(error).__name__}); delete it to train this run from the start"
        ) from error
    for replicate in replicates:
        replicate.load_state_dict(weights[replicate.number])
    state.load_state_dict(training["state"])
    if training["stack"] is None:
        stack.active = []
    else:
        stack.load_state_dict(training["stack"])
