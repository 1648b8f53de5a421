"""One replicate: a backbone and a fusion, with initial weights of their own seed, and how they are updated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_loss.configuration import FusionInput, TrainerConfig
from multimodal_loss.datasets import MultimodalData
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import Fusion, ReadOut
from multimodal_loss.fusion.base import ModalityParameters


@dataclass
class Replicate:
    """`replicate_id` names it in every file: the seed where there is one split, the fold otherwise."""

    replicate_id: int
    seed: int
    fold: int | None
    backbone: nn.Module
    fusion: Fusion
    data: MultimodalData
    read_out: ReadOut | None = None  # once it has been trained and evaluated

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the backbone's scores: the modalities, or one for a backbone that scores them jointly."""
        return score_names(self.backbone, self.data.modalities)

    def modality_parameters(self) -> ModalityParameters:
        """The backbone's parameters by modality, as its hook of this name says; all of one that gives one score.

        UserError: a backbone that does not say.
        """
        hook = getattr(self.backbone, "modality_parameters", None)
        if hook is not None:
            parameters: ModalityParameters = hook()
            return parameters
        if len(self.score_names) == 1:
            return [[(parameter, slice(None)) for parameter in self.backbone.parameters()]]
        raise UserError(
            f"{type(self.fusion).__name__} balances the gradients of each modality's parameters, and "
            f"{type(self.backbone).__name__} does not say which they are (modality_parameters); choose another fusion"
        )

    @property
    def source(self) -> str:
        """Identity of what its weights follow from: the data, and the initial weights where the backbone names them."""
        described: dict[str, Any] = getattr(self.backbone, "description", dict)()
        named = described.get("initial_weights")
        return self.data.fingerprint if named is None else f"{self.data.fingerprint} {named}"

    def state_dict(self) -> dict[str, Any]:
        return {"backbone": self.backbone.state_dict(), "fusion": self.fusion.state_dict()}

    def final_state(self) -> dict[str, Any]:
        """All that predicting takes, as tensors, once it has been trained and evaluated."""
        state = {**self.state_dict(), "shapes": dict(enumerate(map(torch.tensor, self.data.feature_shapes)))}
        if self.read_out is not None:
            state["read_out"] = self.read_out.state_dict()
        if self.data.preparation is not None:
            state["preparation"] = self.data.preparation.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.backbone.load_state_dict(state["backbone"])
        self.fusion.load_state_dict(state["fusion"])


@dataclass(frozen=True)
class Recipe:
    """How a replicate is trained. `optimizer` and `scheduler` are torch's classes with their options (partials)."""

    optimizer: Callable[..., torch.optim.Optimizer]
    trainer: TrainerConfig
    fusion_input: FusionInput
    scheduler: Callable[..., Any] | None = None
    workers: int = 0

    def make_optimizer(self, replicate: Replicate) -> torch.optim.Optimizer:
        """For the backbone's parameters, then the fusion's; both may ask for other rates by `parameter_groups`."""
        backbone, lr = replicate.backbone, self.lr
        of_backbone = getattr(backbone, "parameter_groups", None)
        groups = of_backbone(lr) if of_backbone else [{"params": list(backbone.parameters()), "lr": lr}]
        return self._built(groups + replicate.fusion.parameter_groups(lr))

    def make_fusion_optimizer(self, fusion: Fusion) -> torch.optim.Optimizer | None:
        groups = fusion.parameter_groups(self.lr)
        return self._built(groups) if groups else None

    @property
    def lr(self) -> float:
        return float(self._defaults()["lr"])

    def plain_adam(self) -> dict[str, Any] | None:
        """Adam's options, if the update is torch's Adam at a constant rate and nothing else; None otherwise."""
        options = self._defaults()
        extras = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
        adam = type(self._built([{"params": [nn.Parameter(torch.zeros(1))]}])) is torch.optim.Adam
        if not adam or self.scheduler is not None or any(options.get(extra) for extra in extras):
            return None
        return {key: options[key] for key in ("lr", "betas", "eps", "weight_decay")}

    def _defaults(self) -> dict[str, Any]:
        return self._built([{"params": [nn.Parameter(torch.zeros(1))]}]).defaults

    def _built(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            return self.optimizer(groups)
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"bad value in optimizer: {' '.join(str(error).split())}") from error


def make_replicate(
    replicate_id: int,
    seed: int,
    fold: int | None,
    data: MultimodalData,
    make_backbone: Callable[[MultimodalData], nn.Module],
    make_fusion: Callable[[int, int], Fusion],
    dtype: torch.dtype = torch.float32,
) -> Replicate:
    """Draw initial weights on the CPU from the replicate's seed: backbone, then fusion, as the authors' code does.

    `make_fusion` is given the numbers of classes and of scores.
    """
    torch.manual_seed(seed)
    backbone = make_backbone(data)
    fusion = make_fusion(len(data.classes), len(score_names(backbone, data.modalities)))
    return Replicate(replicate_id, seed, fold, backbone.to(dtype), fusion.to(dtype), data)


def score_names(backbone: nn.Module, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """A backbone with `joint = True` fuses early: it gives one score for all modalities together."""
    return ("joint",) if getattr(backbone, "joint", False) and len(modalities) > 1 else modalities


def as_fusion_input(scores: Tensor, fusion_input: FusionInput, dim: int = -1) -> Tensor:
    """What a fusion reads: scores, or their softmax over classes (the one place where the paper's softmax is taken)."""
    return scores.softmax(dim) if fusion_input == "probabilities" else scores
