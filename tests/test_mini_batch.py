"""Mini-batches: every sample once an epoch, the plain loop's numbers, and continuing in the middle of an epoch."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import SumCrossEntropy
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.loop import LoopOptions, TrainingState, train
from multimodal_loss.training.replicate import OptimizerOptions, Replicate, fusion_input, make_replicate
from multimodal_loss.training.stack import MiniBatchStack

CPU = torch.device("cpu")
SAMPLES, BATCH = 23, 5


class Recorder(nn.Module):
    """A linear network with dropout that notes which samples it sees: their number is the first feature."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.seen: list[list[int]] = []

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        if self.training:
            self.seen.append(inputs[0][:, 0].long().tolist())
        return torch.stack([layer(self.dropout(x)) for layer, x in zip(self.layers, inputs, strict=True)], dim=1)


def data() -> MultimodalData:
    generator = torch.Generator().manual_seed(3)
    number = torch.arange(SAMPLES, dtype=torch.float64)[:, None]
    inputs = tuple(
        torch.cat([number, torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)], dim=1) for _ in range(2)
    )
    split = Split(inputs, torch.arange(SAMPLES) % 3)
    return MultimodalData(split, split, split, ("a", "b"), ("0", "1", "2"), "toy")


def replicate(dropout: float = 0.0) -> Replicate:
    return make_replicate(0, 7, None, data(), lambda d: Recorder(dropout), SumCrossEntropy, torch.float64)


def run_directory(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.create()
    return run


def weights(trained: Replicate) -> list[Tensor]:
    return [p.detach().clone() for p in trained.backbone.parameters()]


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    one = replicate()
    stack = MiniBatchStack(one, OptimizerOptions(lr=1e-3), "probabilities", CPU, BATCH)
    state = train([one], stack, LoopOptions(4, 0.0, 100), run_directory(tmp_path))
    seen = one.backbone.seen
    assert [len(batch) for batch in seen] == [5, 5, 5, 5, 3] * 4
    epochs = [[sample for batch in seen[i : i + 5] for sample in batch] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(SAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert state.stopped[0]["epochs"] == 4 and state.stopped[0]["stopped"] == "max_epochs"


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_equals_the_plain_loop(name: str, tmp_path: Path) -> None:
    """Also the loss that history holds, and the rate that falls every second epoch."""
    options = OptimizerOptions(lr=1e-2, weight_decay=1e-3, name=name, alpha=0.8, lr_decay=0.5, lr_decay_epochs=2)
    one = replicate()
    stack = MiniBatchStack(one, options, "probabilities", CPU, BATCH)
    state = train([one], stack, LoopOptions(5, 0.0, 100), run_directory(tmp_path))

    plain, train_split = replicate(), data().train
    parameters, losses = list(plain.backbone.parameters()), []
    if name == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=1e-2, weight_decay=1e-3)
    else:
        optimizer = torch.optim.RMSprop(parameters, lr=1e-2, alpha=0.8, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    batches = iter(one.backbone.seen)
    for _ in range(5):
        total = 0.0
        for _ in range(5):
            rows = next(batches)
            scores = fusion_input(plain.backbone([x[rows] for x in train_split.inputs]), "probabilities")
            loss = plain.fusion(scores, train_split.target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        schedule.step()
        losses.append(total / SAMPLES)
    assert [row[2] for row in state.history] == pytest.approx(losses, abs=1e-12)
    for ours, theirs in zip(weights(one), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


class Killed(Exception):
    pass


def test_killed_after_any_step_it_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout included; a checkpoint is written after every step, most of them in the middle of an epoch."""
    loop = LoopOptions(6, 0.0, 3, checkpoint_seconds=0.0, monitor="validation_FM")
    options = OptimizerOptions(lr=1e-2, lr_decay=0.9)

    def attempt(folder: Path, steps: int | None) -> tuple[Replicate, TrainingState]:
        one = replicate(dropout=0.5)
        stack = MiniBatchStack(one, options, "probabilities", CPU, BATCH)
        ordinary_step, left = stack.step, steps

        def step() -> Tensor | None:
            nonlocal left
            if left == 0:
                raise Killed
            left = None if left is None else left - 1
            return ordinary_step()

        monkeypatch.setattr(stack, "step", step)
        torch.manual_seed(torch.seed() % 1000)  # whatever the process drew before must not matter
        return one, train([one], stack, loop, run_directory(folder))

    undisturbed, state = attempt(tmp_path / "undisturbed", None)
    assert 1 < state.stopped[0]["epochs"] <= 6
    for steps in (1, 4, 5, 8, 11):
        folder = tmp_path / str(steps)
        while True:
            try:
                resumed, again = attempt(folder, steps)
            except Killed:
                continue
            break
        for ours, theirs in zip(weights(resumed), weights(undisturbed), strict=True):
            assert torch.equal(ours, theirs)
        assert [row[:3] for row in again.history] == [row[:3] for row in state.history]


def test_monitoring_macro_f1_ends_with_the_best_iterate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replicate()
    stack = MiniBatchStack(one, OptimizerOptions(lr=1e-2), "probabilities", CPU, BATCH)
    values = iter([0.9, 0.5, 0.6, 0.5, 0.4, 0.45, 0.45])
    kept: list[list[Tensor]] = []

    def value(monitor: str) -> list[float]:
        assert monitor == "validation_FM"
        kept.append(weights(one))
        return [next(values)]

    monkeypatch.setattr(stack, "validation_values", value)
    state = train([one], stack, LoopOptions(100, 0.0, 2, monitor="validation_FM"), run_directory(tmp_path))
    assert state.stopped[0]["epochs"] == 7  # an equal value is progress where min_delta is 0
    for ours, theirs in zip(weights(one), kept[4], strict=True):
        assert torch.equal(ours, theirs)


def test_validation_is_scored_without_dropout_and_leaves_training_mode_on() -> None:
    one = replicate(dropout=0.9)
    stack = MiniBatchStack(one, OptimizerOptions(lr=1e-2), "probabilities", CPU, BATCH)
    first, second = (stack.validation_values("validation_loss") for _ in range(2))
    assert first == second and one.backbone.training
    frozen = copy.deepcopy(one)
    frozen.backbone.eval()
    with torch.no_grad():
        scores = frozen.backbone(frozen.data.test.inputs).softmax(-1)
        assert first == [pytest.approx(float(frozen.fusion(scores, frozen.data.test.target)), abs=1e-12)]


@pytest.mark.parametrize("size", [0, -3, 2.5, "all"])
def test_a_bad_batch_size_is_a_user_error(size: Any) -> None:
    with pytest.raises(UserError, match=r"trainer\.batch_size"):
        MiniBatchStack(replicate(), OptimizerOptions(lr=1e-2), "probabilities", CPU, size)
