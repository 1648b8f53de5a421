"""Mini-batches: every sample once an epoch, the plain loop's numbers, and continuing in the middle of an epoch."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Killed, kill_after
from multimodal_loss.configuration import RunConfig, TrainerConfig, compose_config
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import MultiModalLoss, SumCrossEntropy
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.evaluate import predict
from multimodal_loss.training.group_trainer import OrdinaryTrainer
from multimodal_loss.training.loop import TrainingState, train
from multimodal_loss.training.replicate import Recipe, Replicate, as_fusion_input, make_replicate

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


def data(dtype: torch.dtype = torch.float64) -> MultimodalData:
    generator = torch.Generator().manual_seed(3)
    number = torch.arange(SAMPLES, dtype=dtype)[:, None]
    inputs = tuple(
        torch.cat([number, torch.randn(SAMPLES, 3, generator=generator, dtype=dtype)], dim=1) for _ in range(2)
    )
    split = Split(inputs, torch.arange(SAMPLES) % 3)
    return MultimodalData(split, split, split, ("a", "b"), ("0", "1", "2"), "toy")


def replicate(dropout: float = 0.0) -> Replicate:
    return make_replicate(0, 7, None, data(), lambda d: Recorder(dropout), SumCrossEntropy, torch.float64)


ADAM = partial(torch.optim.Adam, lr=1e-2)


def recipe(
    epochs: int = 100,
    patience: int = 100,
    monitor: str | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = ADAM,
    scheduler: Callable[..., Any] | None = None,
    **options: Any,
) -> Recipe:
    trainer = TrainerConfig(BATCH, epochs, 0.0, patience, monitor, **options)
    return Recipe(optimizer, trainer, "probabilities", scheduler)


def run_directory(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.create()
    return run


def weights(trained: Replicate) -> list[Tensor]:
    return [p.detach().clone() for p in trained.backbone.parameters()]


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    one, how = replicate(), recipe(4)
    state = train([one], OrdinaryTrainer(one, how, CPU), how.trainer, run_directory(tmp_path))
    seen = one.backbone.seen
    assert [len(batch) for batch in seen] == [5, 5, 5, 5, 3] * 4
    epochs = [[sample for batch in seen[i : i + 5] for sample in batch] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(SAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert state.stopped[0]["epochs"] == 4 and state.stopped[0]["stopped"] == "max_epochs"


def test_whole_batches_leave_other_samples_out_in_every_epoch(tmp_path: Path) -> None:
    one, how = replicate(), recipe(4, drop_last=True)
    state = train([one], OrdinaryTrainer(one, how, CPU), how.trainer, run_directory(tmp_path))
    seen = one.backbone.seen
    assert [len(batch) for batch in seen] == [5] * 4 * 4
    left_out = [set(range(SAMPLES)) - {n for batch in seen[i : i + 4] for n in batch} for i in range(0, 16, 4)]
    assert all(len(samples) == 3 for samples in left_out) and len(set.union(*left_out)) > 3
    few = recipe(1, drop_last=True)
    few = replace(few, trainer=replace(few.trainer, batch_size=SAMPLES + 1))
    with pytest.raises(UserError, match="23 training samples are no whole batch of 24"):
        OrdinaryTrainer(one, few, CPU)
    assert state.stopped[0]["epochs"] == 4


def test_the_proxies_gradients_do_not_shrink_the_networks_when_clipped() -> None:
    """With SGD at rate 1 a step is the gradient: the network's is cut to the norm by itself, the proxies' is not."""
    steps = []
    for norm in (None, 1e-3):
        one = make_replicate(0, 7, None, data(), lambda d: Recorder(), MultiModalLoss, torch.float64)
        how = recipe(optimizer=partial(torch.optim.SGD, lr=1.0), clip_norm=norm)
        before = [p.detach().clone() for p in (*one.backbone.parameters(), *one.fusion.parameters())]
        OrdinaryTrainer(one, how, CPU).step()
        after = [*one.backbone.parameters(), *one.fusion.parameters()]
        steps.append([a - b for a, b in zip(after, before, strict=True)])
    network = len(list(one.backbone.parameters()))
    (whole, proxies), (clipped, same) = (
        (torch.cat([g.flatten() for g in of[:network]]), torch.cat([g.flatten() for g in of[network:]])) for of in steps
    )
    assert float(clipped.detach().norm()) == pytest.approx(1e-3, rel=1e-3) and float(whole.detach().norm()) > 1e-3
    torch.testing.assert_close(clipped / clipped.norm(), whole / whole.norm(), rtol=0, atol=1e-9)
    assert torch.equal(same, proxies) and float(proxies.detach().norm()) > 1e-3


OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=1e-2, weight_decay=1e-3),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-2, alpha=0.8, weight_decay=1e-3),
    "sgd": partial(torch.optim.SGD, lr=1e-2, momentum=0.9, dampening=0.9, weight_decay=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-2, weight_decay=1e-2),
}
SCHEDULES = {
    "step": partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "milestones": partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.1),
    "plateau": partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0),
    "cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=5),
}


@pytest.mark.parametrize(
    ("optimizer", "schedule", "options"),
    [
        ("adam", "step", {}),
        ("rmsprop", "step", {}),
        ("sgd", "milestones", {"clip_norm": 0.05}),
        ("adamw", "plateau", {"accumulate": 2}),
        ("sgd", "cosine", {"accumulate": 5, "clip_norm": 0.1}),
    ],
)
def test_equals_the_plain_loop(optimizer: str, schedule: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Also the loss that history holds, and the learning rate. SUM's loss is a mean, so parts of a batch add up."""
    how = recipe(5, optimizer=OPTIMIZERS[optimizer], scheduler=SCHEDULES[schedule], **options)
    one = replicate()
    state = train([one], OrdinaryTrainer(one, how, CPU), how.trainer, run_directory(tmp_path))

    plain, train_split = replicate(), data().train
    parameters, losses = list(plain.backbone.parameters()), []
    update = OPTIMIZERS[optimizer](parameters)
    rate = SCHEDULES[schedule](update)
    seen = [sample for part in one.backbone.seen for sample in part]
    for epoch in range(5):
        total = 0.0
        for start in range(0, SAMPLES, BATCH):
            rows = seen[epoch * SAMPLES : (epoch + 1) * SAMPLES][start : start + BATCH]
            scores = as_fusion_input(plain.backbone([x[rows] for x in train_split.inputs]), "probabilities")
            loss = plain.fusion(scores, train_split.target[rows])
            update.zero_grad()
            loss.backward()
            if "clip_norm" in options:
                torch.nn.utils.clip_grad_norm_(parameters, options["clip_norm"])
            update.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / SAMPLES)
        rate.step(*([losses[-1]] if schedule == "plateau" else []))
    assert [row[2] for row in state.history] == pytest.approx(losses, abs=1e-12)
    for ours, theirs in zip(weights(one), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_bf16_and_compile_train_near_the_plain_numbers(tmp_path: Path) -> None:
    losses = []
    for options in ({}, {"amp": True}, {"compile": True}):
        one = make_replicate(0, 7, None, data(torch.float32), lambda d: Recorder(), SumCrossEntropy)
        how = recipe(3, **options)  # type: ignore[arg-type]
        trainer = OrdinaryTrainer(one, how, CPU)
        losses.append(
            [row[2] for row in train([one], trainer, how.trainer, run_directory(tmp_path / f"{options}")).history]
        )
        assert all(not key.startswith("_orig_mod") for key in one.state_dict()["backbone"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_of_a_bf16_backbone_softmax_loss_and_predictions_are_float32() -> None:
    class Noting(SumCrossEntropy):
        def forward(self, scores: Tensor, *rest: Any, **masked: Any) -> Tensor:
            assert scores.dtype == torch.float32
            torch.testing.assert_close(scores.sum(-1), torch.ones(scores.shape[:2]), rtol=0, atol=1e-6)
            return super().forward(scores, *rest, **masked)

    one = make_replicate(0, 7, None, data(torch.float32), lambda d: Recorder(), Noting)
    how = recipe(amp=True)
    assert OrdinaryTrainer(one, how, CPU).step() is None  # the first batch of an epoch
    found = predict(one, one.data.test, how, CPU)
    for name in ("fused", "modalities"):
        np.testing.assert_allclose(found[name].sum(-1), 1, rtol=0, atol=1e-6)


def test_killed_after_any_step_it_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout included; a checkpoint is written after every step, most of them in the middle of an epoch."""
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.9)
    how = recipe(6, 3, "validation_FM", keep="validation_loss", scheduler=schedule)

    def attempt(folder: Path, steps: int | None) -> tuple[Replicate, TrainingState]:
        one = replicate(dropout=0.5)
        stack = OrdinaryTrainer(one, how, CPU)
        kill_after(steps, stack, monkeypatch)
        torch.manual_seed(torch.seed() % 1000)  # whatever the process drew before must not matter
        return one, train([one], stack, how.trainer, run_directory(folder), checkpoint_seconds=0.0)

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
    one, how = replicate(), recipe(100, 2, "validation_FM")
    stack = OrdinaryTrainer(one, how, CPU)
    values = iter([0.9, 0.5, 0.6, 0.4, 0.4, 0.45, 0.45])
    kept: list[list[Tensor]] = []

    def value(monitors: Sequence[str]) -> list[list[float]]:
        assert monitors == ["validation_FM"]
        kept.append(weights(one))
        return [[next(values)]]

    monkeypatch.setattr(stack, "validation_values", value)
    state = train([one], stack, how.trainer, run_directory(tmp_path))
    assert state.stopped[0]["epochs"] == 6  # an equal value is no progress, and the first of equals is kept
    for ours, theirs in zip(weights(one), kept[3], strict=True):
        assert torch.equal(ours, theirs)


def test_it_stops_by_one_quantity_and_keeps_the_best_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is best in epoch 2 and three more end it; 1 - accuracy in epochs 4 and 5: the first of these counts."""
    one, how = replicate(), recipe(100, 3, "validation_loss", keep="validation_ACC")
    stack = OrdinaryTrainer(one, how, CPU)
    losses, errors = iter([0.9, 0.5, 0.6, 0.7, 0.8]), iter([0.4, 0.4, 0.5, 0.3, 0.3])
    seen: list[list[Tensor]] = []

    def values(monitors: Sequence[str]) -> list[list[float]]:
        assert monitors == ["validation_loss", "validation_ACC"]
        seen.append(weights(one))
        return [[next(losses)], [next(errors)]]

    monkeypatch.setattr(stack, "validation_values", values)
    state = train([one], stack, how.trainer, run_directory(tmp_path))
    assert state.stopped[0]["epochs"] == 5
    for ours, theirs in zip(weights(one), seen[3], strict=True):
        assert torch.equal(ours, theirs)


def test_monitors_read_off_the_same_scores_are_what_each_alone_is() -> None:
    stack = OrdinaryTrainer(replicate(), recipe(), CPU)
    every = ["validation_FM", "validation_loss", "validation_ACC"]
    assert stack.validation_values(every) == [stack.validation_values([one])[0] for one in every]


def test_a_checkpoint_that_began_from_other_weights_is_not_continued(tmp_path: Path) -> None:
    one, how = replicate(), recipe(1)
    one.backbone.description = lambda: {"initial_weights": "file"}
    state = TrainingState(fingerprints={0: "toy drawn"})
    with pytest.raises(UserError, match=r"data or initial weights of replicate 0 changed since .*checkpoint\.pt"):
        train([one], OrdinaryTrainer(one, how, CPU), how.trainer, run_directory(tmp_path), state=state)


def test_an_iterate_to_keep_needs_something_to_stop_by() -> None:
    with pytest.raises(UserError, match=r"trainer\.keep=validation_ACC: set trainer\.monitor"):
        TrainerConfig(5, 1, 0.0, 1, keep="validation_ACC")


def test_validation_is_scored_without_dropout_and_leaves_training_mode_on() -> None:
    one = replicate(dropout=0.9)
    stack = OrdinaryTrainer(one, recipe(), CPU)
    (first,), (second,) = (stack.validation_values(["validation_loss"]) for _ in range(2))
    assert first == second and one.backbone.training
    frozen = copy.deepcopy(one)
    frozen.backbone.eval()
    with torch.no_grad():
        scores = frozen.backbone(frozen.data.test.inputs).softmax(-1)
        assert first == [pytest.approx(float(frozen.fusion(scores, frozen.data.test.target)), abs=1e-12)]


@pytest.mark.parametrize("size", [0, -3, 2.5, "all"])
def test_a_bad_batch_size_is_a_user_error(size: Any) -> None:
    with pytest.raises(UserError, match=r"trainer\.batch_size"):
        RunConfig.parse(compose_config([f"trainer.batch_size={size}"]))
