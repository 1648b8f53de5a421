"""One replicate: a backbone and a fusion, with initial weights of their own seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from multimodal_loss.datasets.base import MultimodalData
from multimodal_loss.errors import UserError, require_choice, require_number
from multimodal_loss.fusion import Fusion

FusionInput = Literal["probabilities", "logits"]
OPTIMIZERS = ("adam", "rmsprop")


@dataclass
class Replicate:
    """`number` names it in every file: the seed where there is one split, the fold otherwise."""

    number: int
    seed: int
    fold: int | None
    backbone: nn.Module
    fusion: Fusion
    data: MultimodalData

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the backbone's scores: the modalities, or one for a backbone that scores them jointly."""
        return score_names(self.backbone, self.data.modalities)

    def state_dict(self) -> dict[str, Any]:
        return {"backbone": self.backbone.state_dict(), "fusion": self.fusion.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.backbone.load_state_dict(state["backbone"])
        self.fusion.load_state_dict(state["fusion"])


@dataclass(frozen=True)
class OptimizerOptions:
    """Adam or RMSprop with L2 weight decay; a fusion's parameters named `proxies` learn at lr * proxy_lr_multiplier.

    The rate is multiplied by `lr_decay` after every `lr_decay_epochs` epochs. `alpha` is RMSprop's smoothing constant.
    """

    lr: float
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    proxy_lr_multiplier: float = 1.0
    name: str = "adam"
    alpha: float = 0.9
    lr_decay: float = 1.0
    lr_decay_epochs: int = 1

    def __post_init__(self) -> None:
        require_number("trainer.lr", self.lr, positive=True)
        require_number("trainer.weight_decay", self.weight_decay)
        require_number("trainer.eps", self.eps)
        require_number("fusion.proxy_lr_multiplier", self.proxy_lr_multiplier, positive=True)
        require_number("trainer.lr_decay", self.lr_decay, positive=True)
        require_number("trainer.lr_decay_epochs", self.lr_decay_epochs, positive=True, integer=True)
        require_number("trainer.alpha", self.alpha)
        require_choice("trainer.optimizer", self.name, OPTIMIZERS)
        if len(self.betas) != 2 or not all(isinstance(b, (int, float)) and 0 <= b < 1 for b in self.betas):
            raise UserError(f"trainer.betas={list(self.betas)}: give two numbers from 0 to below 1")

    @property
    def is_plain_adam(self) -> bool:
        """Adam at a constant rate, which the collapsed path updates by itself."""
        return self.name == "adam" and self.lr_decay == 1.0

    def fusion_groups(self, fusion: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of a fusion; its parameters are trained exactly as the backbone's."""
        proxies = [p for n, p in fusion.named_parameters() if n.split(".")[-1] == "proxies"]
        others = [p for n, p in fusion.named_parameters() if n.split(".")[-1] != "proxies"]
        groups = [{"params": others, "lr": self.lr}, {"params": proxies, "lr": self.lr * self.proxy_lr_multiplier}]
        return [group for group in groups if group["params"]]

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.name == "adam":
            betas = (float(self.betas[0]), float(self.betas[1]))  # a whole number, such as 0, is refused
            return torch.optim.Adam(groups, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay)
        return torch.optim.RMSprop(groups, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay)

    def decay(self, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Lower the rates where the schedule says so after this many epochs."""
        if self.lr_decay != 1.0 and epochs % self.lr_decay_epochs == 0:
            for group in optimizer.param_groups:
                group["lr"] *= self.lr_decay


def make_replicate(
    number: int,
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
    return Replicate(number, seed, fold, backbone.to(dtype), fusion.to(dtype), data)


def score_names(backbone: nn.Module, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """A backbone with `joint = True` fuses early: it gives one score for all modalities together."""
    return ("joint",) if getattr(backbone, "joint", False) and len(modalities) > 1 else modalities


def fusion_input(scores: Tensor, kind: FusionInput, dim: int = -1) -> Tensor:
    """What a fusion reads: scores, or their softmax over classes (the one place where the paper's softmax is taken)."""
    return scores.softmax(dim) if kind == "probabilities" else scores
