"""One replicate: a backbone and a fusion, with initial weights of their own seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from multimodal_loss.datasets.base import MultimodalData
from multimodal_loss.errors import UserError, require_number
from multimodal_loss.fusion import Fusion

FusionInput = Literal["probabilities", "logits"]


@dataclass
class Replicate:
    """`number` names it in every file: the seed where there is one split, the fold otherwise."""

    number: int
    seed: int
    fold: int | None
    backbone: nn.Module
    fusion: Fusion
    data: MultimodalData

    def state_dict(self) -> dict[str, Any]:
        return {"backbone": self.backbone.state_dict(), "fusion": self.fusion.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.backbone.load_state_dict(state["backbone"])
        self.fusion.load_state_dict(state["fusion"])


@dataclass(frozen=True)
class OptimizerOptions:
    """Adam with L2 weight decay; a fusion's parameters named `proxies` learn at lr * proxy_lr_multiplier."""

    lr: float
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    proxy_lr_multiplier: float = 1.0

    def __post_init__(self) -> None:
        require_number("trainer.lr", self.lr, positive=True)
        require_number("trainer.weight_decay", self.weight_decay)
        require_number("trainer.eps", self.eps)
        require_number("fusion.proxy_lr_multiplier", self.proxy_lr_multiplier, positive=True)
        if len(self.betas) != 2 or not all(isinstance(b, float) and 0 <= b < 1 for b in self.betas):
            raise UserError(f"trainer.betas={list(self.betas)}: give two numbers in [0, 1)")

    def fusion_groups(self, fusion: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of a fusion; its parameters are trained exactly as the backbone's."""
        proxies = [p for n, p in fusion.named_parameters() if n.split(".")[-1] == "proxies"]
        others = [p for n, p in fusion.named_parameters() if n.split(".")[-1] != "proxies"]
        groups = [{"params": others, "lr": self.lr}, {"params": proxies, "lr": self.lr * self.proxy_lr_multiplier}]
        return [group for group in groups if group["params"]]

    def adam(self, groups: list[dict[str, Any]]) -> torch.optim.Adam:
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


def make_replicate(
    number: int,
    seed: int,
    fold: int | None,
    data: MultimodalData,
    make_backbone: Callable[[MultimodalData], nn.Module],
    make_fusion: Callable[[MultimodalData], Fusion],
    dtype: torch.dtype = torch.float32,
) -> Replicate:
    """Draw initial weights on the CPU from the replicate's seed: backbone, then fusion, as the authors' code does."""
    torch.manual_seed(seed)
    backbone = make_backbone(data)
    fusion = make_fusion(data)
    return Replicate(number, seed, fold, backbone.to(dtype), fusion.to(dtype), data)


def fusion_input(scores: Tensor, kind: FusionInput, dim: int = -1) -> Tensor:
    """What a fusion reads: scores, or their softmax over classes (the one place where the paper's softmax is taken)."""
    return scores.softmax(dim) if kind == "probabilities" else scores
