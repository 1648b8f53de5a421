"""The fast path equals the ordinary one, first-epoch losses are the authors', early stopping does what it says."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_loss.backbones import MLP
from multimodal_loss.datasets import MultimodalData, Split, SyntheticDataset
from multimodal_loss.fusion import (
    Fusion,
    Mulmix,
    MultiModalLoss,
    NeuralCrossEntropy,
    ProxyAnchor,
    SoftTriple,
    SumCrossEntropy,
)
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.collapsed import CollapsedStack, SharedInput, can_collapse
from multimodal_loss.training.loop import EarlyStopping, LoopOptions, train
from multimodal_loss.training.replicate import FusionInput, OptimizerOptions, Replicate, make_replicate
from multimodal_loss.training.stack import ModuleStack, Stack

CPU = torch.device("cpu")


def toy_data(classes: int = 3, dtype: torch.dtype = torch.float64) -> MultimodalData:
    """Two modalities of different width with three learnable classes."""
    generator = torch.Generator().manual_seed(5)
    target = torch.arange(60) % classes
    inputs = []
    for width in (9, 13):
        centres = torch.randn(classes, width, generator=generator, dtype=dtype)
        inputs.append(centres[target] + 0.7 * torch.randn(60, width, generator=generator, dtype=dtype))
    split = Split(tuple(inputs), target)
    return MultimodalData(split, None, split, ("a", "b"), tuple(map(str, range(classes))), "toy")


def replicates(data: MultimodalData, fusion: Callable[..., Fusion], number: int = 3) -> list[Replicate]:
    classes = len(data.classes)
    dtype = data.train.inputs[0].dtype
    return [
        make_replicate(
            seed,
            seed,
            None,
            data,
            lambda d: MLP(d.feature_shapes, classes, hidden=(12, 7, 5)),
            fusion,
            dtype,
        )
        for seed in range(number)
    ]


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
@pytest.mark.parametrize(
    "fusion", [SumCrossEntropy, NeuralCrossEntropy, MultiModalLoss, SoftTriple, ProxyAnchor, Mulmix]
)
def test_both_paths_are_equal_over_50_steps_with_early_stopping(
    fusion: Callable[..., Fusion], kind: FusionInput, tmp_path: Path
) -> None:
    if fusion is Mulmix and kind == "logits":
        fusion = lambda c, m: Mulmix(c, m, combine_in="scores")  # noqa: E731
    options = OptimizerOptions(lr=1e-2, proxy_lr_multiplier=3.0)
    loop = LoopOptions(max_epochs=50, min_delta=2e-3, patience=4)
    outcomes = []
    for make in (ModuleStack, CollapsedStack):
        trained = replicates(toy_data(), fusion)
        run = RunDirectory(tmp_path / make.__name__)
        run.create()
        outcomes.append((trained, train(trained, make(trained, options, kind, CPU), loop, run)))
    (ordinary, state), (fast, fast_state) = outcomes
    assert {n: s["epochs"] for n, s in state.stopped.items()} == {n: s["epochs"] for n, s in fast_state.stopped.items()}
    for a, b in zip(state.history, fast_state.history, strict=True):
        assert a[:3] == pytest.approx(b[:3], abs=1e-9)
    for a, b in zip(ordinary, fast, strict=True):
        for part in ("backbone", "fusion"):
            for x, y in zip(getattr(a, part).parameters(), getattr(b, part).parameters(), strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


def test_replicates_that_train_together_end_as_each_alone(tmp_path: Path) -> None:
    options, loop = OptimizerOptions(lr=1e-2), LoopOptions(max_epochs=50, min_delta=2e-3, patience=4)
    run = RunDirectory(tmp_path / "together")
    run.create()
    together = replicates(toy_data(), NeuralCrossEntropy)
    train(together, CollapsedStack(together, options, "probabilities", CPU), loop, run)
    for position in range(3):
        run = RunDirectory(tmp_path / str(position))
        run.create()
        alone = [replicates(toy_data(), NeuralCrossEntropy)[position]]
        train(alone, CollapsedStack(alone, options, "probabilities", CPU), loop, run)
        for x, y in zip(together[position].backbone.parameters(), alone[0].backbone.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


def test_early_stopping_ended_replicates_apart_in_that_test(tmp_path: Path) -> None:
    """Guards the test above: it would prove little if all replicates stopped together."""
    run = RunDirectory(tmp_path)
    trained = replicates(toy_data(), SumCrossEntropy)
    stack = CollapsedStack(trained, OptimizerOptions(lr=1e-2), "probabilities", CPU)
    state = train(trained, stack, LoopOptions(max_epochs=50, min_delta=2e-3, patience=4), run)
    assert len({s["epochs"] for s in state.stopped.values()}) > 1


def test_an_activation_or_data_of_their_own_take_the_ordinary_path() -> None:
    linear = replicates(toy_data(), SumCrossEntropy)
    assert can_collapse(linear)
    curved = [dataclasses.replace(r, backbone=MLP([(9,), (13,)], 3, activation="relu")) for r in linear]
    assert not can_collapse(curved)
    assert not can_collapse([*linear, dataclasses.replace(linear[0], data=toy_data())])


@pytest.mark.parametrize("columns", [1, 5, 10, 17])
def test_packed_products_are_the_plain_ones(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(301, 203, generator=generator)
    shared = SharedInput(x, columns)
    maps, gradient = torch.randn(columns, 203, generator=generator), torch.randn(columns, 301, generator=generator)
    torch.testing.assert_close(shared.scores(maps), maps @ x.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared.map_gradient(gradient), gradient @ x, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def table_1_data() -> MultimodalData:
    """The training data of Table 1's row with two noisy modalities."""
    return SyntheticDataset(31, 2, validation_size=2, test_size=2).load()


@pytest.mark.parametrize("stack", [ModuleStack, CollapsedStack])
@pytest.mark.parametrize(
    ("fusion", "authors"), [(MultiModalLoss, 0.8045), (SumCrossEntropy, 0.6958), (NeuralCrossEntropy, 0.7733)]
)
def test_first_epoch_losses_are_those_the_authors_printed(
    table_1_data: MultimodalData, stack: Callable[..., Stack], fusion: Callable[..., Fusion], authors: float
) -> None:
    """Seed 0, two noisy modalities."""
    replicate = make_replicate(0, 0, None, table_1_data, lambda d: MLP(d.feature_shapes, 2), fusion)
    loss = stack([replicate], OptimizerOptions(lr=5e-4), "probabilities", CPU).step()
    assert float(loss) == pytest.approx(authors, abs=0.002)


def literal_early_stopping(losses: list[float], min_delta: float, patience: int) -> int | None:
    """How many epochs run before it stops, straight from the rule; None if it never does."""
    best, stale = math.inf, 0
    for epoch, loss in enumerate(losses, start=1):
        stale = 0 if loss <= best - min_delta else stale + 1
        best = loss if stale == 0 else best
        if stale == patience:
            return epoch
    return None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    st.floats(0, 0.2),
    st.integers(1, 8),
)
def test_early_stopping_follows_its_rule(losses: list[float], min_delta: float, patience: int) -> None:
    stopping = EarlyStopping(min_delta, patience)
    stopped = next((e for e, loss in enumerate(losses, start=1) if stopping.should_stop(loss)), None)
    assert stopped == literal_early_stopping(losses, min_delta, patience)


def test_progress_smaller_than_min_delta_does_not_count() -> None:
    stopping = EarlyStopping(min_delta=0.1, patience=3)
    assert [stopping.should_stop(loss) for loss in (1.0, 0.95, 0.92, 0.901)] == [False, False, False, True]
    assert stopping.best == 1.0


@pytest.mark.parametrize("make", [ModuleStack, CollapsedStack])
def test_monitoring_validation_ends_with_the_best_iterate(make: Callable[..., Stack], tmp_path: Path) -> None:
    """Against a plain loop: the weights with the lowest validation loss seen (by more than min_delta), not the last."""
    data = toy_data()
    noise = torch.Generator().manual_seed(9)
    rows = tuple(x + 2 * torch.randn(x.shape, generator=noise, dtype=x.dtype) for x in data.train.inputs)
    data = dataclasses.replace(data, validation=Split(rows, data.train.target))
    assert data.validation is not None
    options = OptimizerOptions(lr=1e-2)

    (expected,) = replicates(data, SumCrossEntropy, 1)
    plain, losses, weights = ModuleStack([expected], options, "probabilities", CPU), [], []
    for _ in range(60):
        plain.step()
        with torch.no_grad():
            scores = expected.backbone(data.validation.inputs).softmax(-1)
            losses.append(float(expected.fusion(scores, data.validation.target)))
        weights.append([p.detach().clone() for p in expected.backbone.parameters()])
    best = min(range(60), key=losses.__getitem__)
    assert 0 < best < 45, "the toy must overfit within the patience"

    run = RunDirectory(tmp_path)
    run.create()
    (replicate,) = trained = replicates(data, SumCrossEntropy, 1)
    loop = LoopOptions(max_epochs=60, min_delta=0.0, patience=15, monitor="validation_loss")
    state = train(trained, make(trained, options, "probabilities", CPU), loop, run)
    assert state.stopping[0].best == pytest.approx(losses[best], abs=1e-9)
    for x, y in zip(replicate.backbone.parameters(), weights[best], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-8)
