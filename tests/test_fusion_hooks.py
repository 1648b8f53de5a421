"""What training tells a fusion, and what it asks of it: epochs, sample positions, what is watched, its own backward."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from multimodal_loss.backbones import MLP, MOMA, DeepConvLSTM
from multimodal_loss.backbones.intermediate_attention import IntermediateAttention
from multimodal_loss.backbones.x_norm import XNorm
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import Fusion, SumCrossEntropy
from multimodal_loss.fusion.base import ModalityParameters
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.collapsed import CollapsedTrainer, can_collapse
from multimodal_loss.training.evaluate import Validation
from multimodal_loss.training.group_trainer import GroupTrainer, OrdinaryTrainer
from multimodal_loss.training.loop import train
from multimodal_loss.training.replicate import Recipe, Replicate, make_replicate

CPU = torch.device("cpu")
SAMPLES = 13


class Recorder(SumCrossEntropy):
    """Notes what it is told, in training."""

    reads_index: ClassVar[bool] = True

    def __init__(self, num_classes: int, num_modalities: int) -> None:
        super().__init__(num_classes, num_modalities)
        self.told: list[Any] = []

    def begin_epoch(self, epoch: int, num_samples: int) -> None:
        self.told.append((epoch, num_samples))

    def compute_loss(self, scores: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        assert index is not None
        self.told.append(index.tolist())
        return super().compute_loss(scores, target)

    def monitored(self, scores: Tensor, target: Tensor, loss: Tensor | None = None) -> Tensor:
        assert loss is None or not loss.requires_grad
        assert not scores.requires_grad
        return self.negative_log_likelihood(scores, target) + (100 if loss is None else 200)


class OfModalities(Recorder):
    """Leaves the second modality alone."""

    needs_modality_parameters = True

    def backward(
        self,
        loss: Tensor,
        scores: Tensor,
        target: Tensor,
        modality_parameters: ModalityParameters | None = None,
        share: float = 1.0,
    ) -> None:
        super().backward(loss, scores, target, share=share)
        assert modality_parameters is not None
        for parameter, rows in modality_parameters[1]:
            assert parameter.grad is not None
            parameter.grad[rows] = 0


def data() -> MultimodalData:
    generator = torch.Generator().manual_seed(3)
    inputs = tuple(torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64) for width in (4, 6))
    split = Split(inputs, torch.arange(SAMPLES) % 3)
    return MultimodalData(split, split, split, ("a", "b"), ("0", "1", "2"), "toy")


def replicate(fusion: Callable[..., Fusion], activation: str | None = None) -> Replicate:
    def backbone(d: MultimodalData) -> MLP:
        return MLP(d.feature_shapes, 3, hidden=(5,), activation=activation)

    return make_replicate(0, 7, None, data(), backbone, fusion, torch.float64)


def recipe(batch_size: int | None = None, **options: Any) -> Recipe:
    trainer = TrainerConfig(batch_size, 3, 0.0, 100, **options)
    return Recipe(partial(torch.optim.Adam, lr=1e-2), trainer, "logits")


@pytest.mark.parametrize("collapsed", [True, False])
def test_full_batches_know_epoch_and_positions(collapsed: bool) -> None:
    one = replicate(Recorder)
    trainer: GroupTrainer = CollapsedTrainer([one], recipe(), CPU) if collapsed else OrdinaryTrainer(one, recipe(), CPU)
    watched = [trainer.step() for _ in range(3)]
    everything = list(range(SAMPLES))
    assert one.fusion.told == [(1, SAMPLES), everything, (2, SAMPLES), everything, (3, SAMPLES), everything]
    assert all(value is not None and 200 < float(value) < 210 for value in watched)
    ((value,),) = trainer.validation_values(["validation_loss"])
    assert 100 < value < 110


def test_mini_batches_in_parts_know_epoch_and_positions(tmp_path: Path) -> None:
    how, one = recipe(5, accumulate=2), replicate(Recorder)
    state = train([one], OrdinaryTrainer(one, how, CPU), how.trainer, RunDirectory(tmp_path), checkpoint_seconds=1e9)
    for epoch in range(3):
        begun, *parts = one.fusion.told[7 * epoch : 7 * epoch + 7]
        assert begun == (epoch + 1, SAMPLES)
        assert [len(part) for part in parts] == [3, 2, 3, 2, 2, 1]
        assert sorted(sample for part in parts for sample in part) == list(range(SAMPLES))
    assert all(200 < row[2] < 210 for row in state.history)


def test_ignored_samples_leave_the_positions_too() -> None:
    fusion = Recorder(3, 2)
    fusion(torch.randn(4, 2, 3), torch.tensor([0, -100, 2, -100]), torch.tensor([7, 5, 3, 1]))
    assert fusion.told == [[7, 3]]
    for index in (torch.arange(3), torch.arange(4.0)):
        with pytest.raises(ValueError, match="index must be 4 positions of type int64"):
            fusion(torch.randn(4, 2, 3), torch.zeros(4, dtype=torch.int64), index)


def test_a_fusion_that_works_on_gradients_takes_the_ordinary_path_and_is_given_the_parameters() -> None:
    one = replicate(OfModalities)
    assert can_collapse([replicate(Recorder)], recipe()) and not can_collapse([one], recipe())
    before = [p.detach().clone() for p in one.backbone.parameters()]
    OrdinaryTrainer(one, recipe(5, accumulate=2), CPU).step()
    own = {id(p) for p, _ in one.modality_parameters()[1]}
    for parameter, old in zip(one.backbone.parameters(), before, strict=True):
        assert torch.equal(parameter, old) == (id(parameter) in own)


def test_what_does_not_go_with_it_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"trainer\.compile=true: OfModalities .* leave it false"):
        OrdinaryTrainer(replicate(OfModalities), recipe(5, compile=True), CPU)

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)

    one = make_replicate(0, 7, None, data(), lambda d: Unknown(), OfModalities, torch.float64)
    with pytest.raises(UserError, match=r"OfModalities .* Unknown does not say .*choose another fusion"):
        OrdinaryTrainer(one, recipe(), CPU)
    one.backbone.joint = True
    everything = one.modality_parameters()
    assert len(everything) == 1 and [id(p) for p, _ in everything[0]] == [id(p) for p in one.backbone.parameters()]


@pytest.mark.parametrize(
    ("backbone", "apart"),
    [
        (MLP([(4,), (6,), (4,)], 3, hidden=(5,), activation="relu"), True),
        (DeepConvLSTM([(9, 3), (9, 2), (9, 3)], 3, filters=2, kernel=3, conv_layers=2, hidden=4, dropout=0.0), True),
        (DeepConvLSTM([(9, 2), (9, 2)], 3, filters=2, kernel=3, conv_layers=1, hidden=4, dropout=0.0), True),
        (MOMA([(7,), (5,), (6,)], 3), False),
    ],
)
def test_backbones_say_which_parameters_are_a_modalitys(backbone: Any, apart: bool) -> None:
    """All of them, once; and where scores are apart, the gradient of a modality's scores lies in its own alone."""
    shapes = {
        MLP: [(4,), (6,), (4,)],
        MOMA: [(7,), (5,), (6,)],
        DeepConvLSTM: [(9, 3), (9, 2), (9, 3)] if len(getattr(backbone, "groups", [])) == 2 else [(9, 2), (9, 2)],
    }[type(backbone)]
    torch.manual_seed(1)
    of_modalities = backbone.modality_parameters()
    seen = {id(p): torch.zeros(len(p)) for p in backbone.parameters()}
    for own in of_modalities:
        for parameter, rows in own:
            seen[id(parameter)][rows] += 1
    assert len(of_modalities) == len(shapes) and all((count == 1).all() for count in seen.values())
    for modality in range(len(shapes)):
        backbone.zero_grad()
        backbone([torch.randn(5, *shape) for shape in shapes])[:, modality].square().sum().backward()
        for other, own in enumerate(of_modalities):
            sizes = [float(parameter.grad[rows].abs().sum()) for parameter, rows in own]
            assert all(sizes) if other == modality else not (apart and any(sizes))


def test_what_modalities_share_is_of_none_of_them() -> None:
    """Attention and exchanges between two of them: they get the gradients as they are."""
    attention = IntermediateAttention([(8, 60), (3, 2, 32, 32)], 3, channels=(8, 8, 8, 8, 8), units=(2, 2, 2))
    exchange = XNorm([(3, 16, 32, 32), (2, 16, 32, 32)], 3, width=1 / 16)
    for backbone, shared in ((attention, "of_"), (exchange, "exchanges")):
        of_modalities = backbone.modality_parameters()
        own = [id(parameter) for of_one in of_modalities for parameter, _ in of_one]
        assert len(of_modalities) == 2 and len(set(own)) == len(own)
        for name, parameter in backbone.named_parameters():
            assert (id(parameter) in own) != name.startswith(shared), name


def test_validation_on_any_path_asks_the_fusion_what_to_watch() -> None:
    one = replicate(Recorder)
    ((value,),) = Validation([one], recipe(), CPU).values([0], ["validation_loss"])
    assert 100 < value < 110
