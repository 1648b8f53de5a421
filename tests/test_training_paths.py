"""The fast path equals the ordinary one, first-epoch losses are the authors', early stopping does what it says."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_loss.backbones import MLP
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData, Split, SyntheticDataset
from multimodal_loss.fusion import (
    ConcatenationCrossEntropy,
    Fusion,
    Mulmix,
    MultiModalLoss,
    ProxyAnchor,
    SoftTriple,
    SumCrossEntropy,
)
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.collapsed import CollapsedTrainer, SharedInput, can_collapse
from multimodal_loss.training.group_trainer import GroupTrainer, OrdinaryTrainer
from multimodal_loss.training.loop import EarlyStopping, train
from multimodal_loss.training.replicate import FusionInput, Recipe, Replicate, make_replicate

CPU = torch.device("cpu")


def toy_data(classes: int = 3, dtype: torch.dtype = torch.float64, rows: int = 60) -> MultimodalData:
    """Two modalities of different width with three learnable classes."""
    generator = torch.Generator().manual_seed(5)
    target = torch.arange(rows) % classes
    inputs = []
    for width in (9, 13):
        centres = torch.randn(classes, width, generator=generator, dtype=dtype)
        inputs.append(centres[target] + 0.7 * torch.randn(rows, width, generator=generator, dtype=dtype))
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


def recipe(
    lr: float = 1e-2,
    fusion_input: FusionInput = "probabilities",
    epochs: int = 50,
    min_delta: float = 2e-3,
    patience: int = 4,
    monitor: str | None = None,
) -> Recipe:
    adam = partial(torch.optim.Adam, lr=lr, weight_decay=1e-4)
    return Recipe(adam, TrainerConfig(None, epochs, min_delta, patience, monitor), fusion_input)


def run_directory(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.create()
    return run


def ordinary(trained: list[Replicate], how: Recipe) -> GroupTrainer:
    (replicate,) = trained
    return OrdinaryTrainer(replicate, how, CPU)


def collapsed(trained: list[Replicate], how: Recipe) -> GroupTrainer:
    assert can_collapse(trained, how)
    return CollapsedTrainer(trained, how, CPU)


Make = Callable[[list[Replicate], Recipe], GroupTrainer]


@pytest.mark.parametrize("fusion_input", ["probabilities", "logits"])
@pytest.mark.parametrize(
    "fusion", [SumCrossEntropy, ConcatenationCrossEntropy, MultiModalLoss, SoftTriple, ProxyAnchor, Mulmix]
)
def test_both_paths_are_equal_over_50_steps_with_early_stopping(
    fusion: Callable[..., Fusion], fusion_input: FusionInput, tmp_path: Path
) -> None:
    """Each replicate alone on the ordinary path, all together on the fast one; proxies at a rate of their own."""
    if fusion in (MultiModalLoss, SoftTriple, ProxyAnchor):
        fusion = partial(fusion, proxy_lr_multiplier=3.0)
    how, run = recipe(fusion_input=fusion_input), run_directory(tmp_path / "run")
    fast = replicates(toy_data(), fusion)
    together = train(fast, collapsed(fast, how), how.trainer, run)
    for position, other in enumerate(fast):
        (alone,) = trained = [replicates(toy_data(), fusion)[position]]
        state = train(trained, ordinary(trained, how), how.trainer, run_directory(tmp_path / str(position)))
        assert state.stopped[position]["epochs"] == together.stopped[position]["epochs"]
        of_this = [row for row in together.history if row[0] == position]
        for a, b in zip(state.history, of_this, strict=True):
            assert a[:3] == pytest.approx(b[:3], abs=1e-9)
        for part in ("backbone", "fusion"):
            for x, y in zip(getattr(alone, part).parameters(), getattr(other, part).parameters(), strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=1e-9)
    if fusion is SumCrossEntropy:  # it would prove little if all replicates stopped together
        assert len({s["epochs"] for s in together.stopped.values()}) > 1


@pytest.mark.parametrize("rows", [60, 431])
@pytest.mark.parametrize(
    "fusion", [SumCrossEntropy, ConcatenationCrossEntropy, SoftTriple, ProxyAnchor, MultiModalLoss]
)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_replicate_ends_in_the_same_bits_whichever_others_train_beside_it(
    fusion: Callable[..., Fusion], classes: int, rows: int
) -> None:
    """Alone, beside one, beside four, and beside others that stop before it does."""
    data, how = toy_data(classes, torch.float32, rows), recipe()
    groups = [replicates(data, fusion, number) for number in (5, 5, 2, 1)]
    trainers = [collapsed(group, how) for group in groups]
    for step in range(30):
        losses = [trainer.step() for trainer in trainers]
        assert len({float(loss[0]) for loss in losses if loss is not None}) == 1
        if step in (5, 12):
            trainers[1].retire([4, 3] if step == 5 else [1, 2])
    for trainer, group in zip(trainers, groups, strict=True):
        trainer.synchronise()
        for x, y in zip(groups[0][0].backbone.parameters(), group[0].backbone.parameters(), strict=True):
            assert torch.equal(x, y)


def test_what_is_not_plain_takes_the_ordinary_path() -> None:
    linear, plain = replicates(toy_data(), SumCrossEntropy), recipe()
    assert can_collapse(linear, plain)
    curved = [dataclasses.replace(r, backbone=MLP([(9,), (13,)], 3, activation="relu")) for r in linear]
    assert not can_collapse(curved, plain)
    assert not can_collapse([*linear, dataclasses.replace(linear[0], data=toy_data())], plain)
    for change in ({"clip_norm": 1.0}, {"accumulate": 2}, {"amp": True}, {"batch_size": 9}, {"path": "ordinary"}):
        how = dataclasses.replace(plain, trainer=dataclasses.replace(plain.trainer, **change))
        assert not can_collapse(linear, how), change
    for optimizer in (partial(torch.optim.AdamW, lr=1e-2), partial(torch.optim.Adam, lr=1e-2, amsgrad=True)):
        assert not can_collapse(linear, dataclasses.replace(plain, optimizer=optimizer))
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=3)
    assert not can_collapse(linear, dataclasses.replace(plain, scheduler=scheduler))


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


@pytest.mark.parametrize("make", [ordinary, collapsed])
@pytest.mark.parametrize(
    ("fusion", "authors"), [(MultiModalLoss, 0.8045), (SumCrossEntropy, 0.6958), (ConcatenationCrossEntropy, 0.7733)]
)
def test_first_epoch_losses_are_those_the_authors_printed(
    table_1_data: MultimodalData, make: Make, fusion: Callable[..., Fusion], authors: float
) -> None:
    """Seed 0, two noisy modalities."""
    replicate = make_replicate(0, 0, None, table_1_data, lambda d: MLP(d.feature_shapes, 2), fusion)
    loss = make([replicate], recipe(5e-4)).step()
    assert loss is not None and float(loss) == pytest.approx(authors, abs=0.002)


def literal_early_stopping(losses: list[float], min_delta: float, patience: int) -> int | None:
    """How many epochs run before it stops, straight from the rule; None if it never does."""
    best, stale = math.inf, 0
    for epoch, loss in enumerate(losses, start=1):
        stale = 0 if loss <= best - min_delta and loss < best else stale + 1
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


def test_a_plateau_of_equal_values_ends_also_where_min_delta_is_0() -> None:
    stopping = EarlyStopping(min_delta=0.0, patience=2)
    assert [stopping.should_stop(loss) for loss in (1.0, 0.5, 0.5, 0.5)] == [False, False, False, True]


@pytest.mark.parametrize("make", [ordinary, collapsed])
def test_monitoring_validation_ends_with_the_best_iterate(make: Make, tmp_path: Path) -> None:
    """Against a plain loop: the weights with the lowest validation loss seen (by more than min_delta), not the last."""
    data = toy_data()
    noise = torch.Generator().manual_seed(9)
    rows = tuple(x + 2 * torch.randn(x.shape, generator=noise, dtype=x.dtype) for x in data.train.inputs)
    data = dataclasses.replace(data, validation=Split(rows, data.train.target))
    assert data.validation is not None

    (expected,) = alone = replicates(data, SumCrossEntropy, 1)
    plain, losses, weights = ordinary(alone, recipe()), [], []
    for _ in range(60):
        plain.step()
        with torch.no_grad():
            scores = expected.backbone(data.validation.inputs).softmax(-1)
            losses.append(float(expected.fusion(scores, data.validation.target)))
        weights.append([p.detach().clone() for p in expected.backbone.parameters()])
    best = min(range(60), key=losses.__getitem__)
    assert 0 < best < 45, "the toy must overfit within the patience"

    (replicate,) = trained = replicates(data, SumCrossEntropy, 1)
    how = recipe(epochs=60, min_delta=0.0, patience=15, monitor="validation_loss")
    state = train(trained, make(trained, how), how.trainer, run_directory(tmp_path))
    assert state.stopping[0].best == pytest.approx(losses[best], abs=1e-9)
    for x, y in zip(replicate.backbone.parameters(), weights[best], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-8)
