"""The rivals in training: both paths agree, a killed run goes on bit for bit, gradients are balanced by modality."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Killed, kill_after
from multimodal_loss.backbones import MLP, MOMA
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.fusion import ECML, FUML, OGMGE, QMF, TMC, Fusion, MMCosine, MMPareto, SumCrossEntropy
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.collapsed import CollapsedTrainer, can_collapse
from multimodal_loss.training.group_trainer import GroupTrainer, OrdinaryTrainer
from multimodal_loss.training.loop import train
from multimodal_loss.training.replicate import Recipe, Replicate, make_replicate

CPU = torch.device("cpu")
OGM = partial(OGMGE, noise=0.0)
SHORT = {"annealing_epochs": 8}


@cache
def data(dtype: torch.dtype = torch.float64) -> MultimodalData:
    generator = torch.Generator().manual_seed(5)
    target, inputs = torch.arange(23) // 8, []
    for width in (5, 7):
        centres = torch.randn(3, width, generator=generator, dtype=dtype)
        inputs.append(centres[target] + torch.randn(23, width, generator=generator, dtype=dtype))
    split = Split(tuple(inputs), target)
    return MultimodalData(split, split, split, ("a", "b"), ("0", "1", "2"), "toy")


def replicate(fusion: Callable[..., Fusion], number: int = 0) -> Replicate:
    return make_replicate(
        number, number, None, data(), lambda d: MLP(d.feature_shapes, 3, hidden=(6,)), fusion, torch.float64
    )


def recipe(optimizer: Any = torch.optim.Adam, batch_size: int | None = None, **options: Any) -> Recipe:
    return Recipe(partial(optimizer, lr=2e-2), TrainerConfig(batch_size, 12, 0.0, 100, **options), "logits")


@pytest.mark.parametrize(
    "fusion",
    [partial(TMC, **SHORT), partial(ECML, **SHORT), FUML, QMF, OGM, MMCosine],
    ids=["tmc", "ecml", "fuml", "qmf", "ogm", "mm_cosine"],
)
def test_both_paths_are_equal(fusion: Callable[..., Fusion], tmp_path: Path) -> None:
    how, together = recipe(), [replicate(fusion, number) for number in range(2)]
    assert can_collapse(together, how)
    collapsed = train(together, CollapsedTrainer(together, how, CPU), how.trainer, RunDirectory(tmp_path))
    for number, other in enumerate(together):
        one = replicate(fusion, number)
        state = train([one], OrdinaryTrainer(one, how, CPU), how.trainer, RunDirectory(tmp_path))
        history = [row for row in collapsed.history if row[0] == number]
        for a, b in zip(state.history, history, strict=True):
            assert a[:3] == pytest.approx(b[:3], abs=1e-9)
        assert state.history[-1][2] < state.history[0][2]
        ours, theirs = one.state_dict(), other.state_dict()
        for part in ("backbone", "fusion"):
            for name, value in ours[part].items():
                torch.testing.assert_close(value, theirs[part][name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [6, None])
@pytest.mark.parametrize(
    "fusion",
    [partial(TMC, **SHORT), QMF, partial(OGMGE, modulated_epochs=4), MMPareto],
    ids=["tmc", "qmf", "ogm_ge", "mm_pareto"],
)
def test_killed_after_any_step_it_ends_in_the_same_state(
    fusion: Callable[..., Fusion], batch_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the network, and what the fusion remembers: epoch and history; noise is drawn on."""
    how = recipe(torch.optim.SGD, batch_size, monitor="validation_loss")
    how = replace(how, trainer=replace(how.trainer, max_epochs=6))

    def attempt(folder: Path, steps: int | None) -> Replicate:
        one = replicate(fusion)
        trainer: GroupTrainer = OrdinaryTrainer(one, how, CPU)
        kill_after(steps, trainer, monkeypatch)
        torch.manual_seed(torch.seed() % 1000)  # whatever the process drew before must not matter
        folder.mkdir(exist_ok=True)
        train([one], trainer, how.trainer, RunDirectory(folder), checkpoint_seconds=0.0)
        return one

    expected = attempt(tmp_path / "undisturbed", None).state_dict()
    for steps in (3, 5):
        while True:
            try:
                got = attempt(tmp_path / str(steps), steps).state_dict()
            except Killed:
                continue
            break
        for part in ("backbone", "fusion"):
            assert got[part].keys() == expected[part].keys()
            for name, value in expected[part].items():
                assert torch.equal(got[part][name], value), (steps, name)


def test_collapsed_replicates_go_on_where_they_were(tmp_path: Path) -> None:
    how = recipe()

    def group() -> tuple[list[Replicate], CollapsedTrainer]:
        replicates = [replicate(QMF, number) for number in range(2)]
        return replicates, CollapsedTrainer(replicates, how, CPU)

    whole, trainer = group()
    losses = [trainer.step().tolist() for _ in range(8)]
    first, trainer = group()
    assert [trainer.step().tolist() for _ in range(3)] == losses[:3]
    trainer.synchronise()
    saved, of_trainer = [one.state_dict() for one in first], trainer.state_dict()
    second, trainer = group()
    for one, state in zip(second, saved, strict=True):
        one.load_state_dict(state)
    trainer.load_state_dict(of_trainer)
    assert [trainer.step().tolist() for _ in range(5)] == losses[3:]
    assert whole[0].fusion.history.any() and torch.equal(whole[1].fusion.history, second[1].fusion.history)


def test_rising_losses_do_not_end_a_training(tmp_path: Path) -> None:
    """The divergence's weight makes TMC's loss rise; what is watched, and stored, falls all the same."""
    one = replicate(partial(TMC, annealing_epochs=12))
    how = Recipe(partial(torch.optim.Adam, lr=2e-3), TrainerConfig(None, 12, 0.0, 2), "logits")
    losses = []

    class Noted(TMC):
        def forward(self, scores: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
            loss = super().forward(scores, target, index)
            losses.append(loss.item())
            return loss

    one.fusion.__class__ = Noted
    state = train([one], OrdinaryTrainer(one, how, CPU), how.trainer, RunDirectory(tmp_path))
    watched = [row[2] for row in state.history]
    assert losses[-1] > losses[0] and state.stopped[0]["stopped"] == "max_epochs"
    assert all(later < earlier for earlier, later in itertools.pairwise(watched))


def test_ogm_on_the_parameters_is_ogm_in_the_loss() -> None:
    """With noise of nearly nothing, which takes the other way: through each modality's parameters."""
    trained = []
    for noise in (0.0, 1e-30):
        one = replicate(partial(OGMGE, alpha=0.5, noise=noise))
        trainer = OrdinaryTrainer(one, recipe(torch.optim.SGD, accumulate=1), CPU)
        for _ in range(5):
            trainer.step()
        trained.append(list(one.backbone.parameters()))
    plain = replicate(SumCrossEntropy)
    trainer = OrdinaryTrainer(plain, recipe(torch.optim.SGD), CPU)
    for _ in range(5):
        trainer.step()
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(trained[0], plain.backbone.parameters(), strict=True))


def test_mm_pareto_balances_a_backbone_whose_modalities_attend_to_each_other() -> None:
    one = make_replicate(0, 0, None, data(), lambda d: MOMA(d.feature_shapes, 3), MMPareto, torch.float64)
    trainer = OrdinaryTrainer(one, recipe(torch.optim.SGD, accumulate=2), CPU)
    first, *_, last = [float(trainer.step()) for _ in range(30)]
    assert last < first
