"""Proxies: the one layout, initialisation and optimiser group that the proxy-based fusions share.

A proxy lies in the space of the concatenated modality scores, dimension D = M * C with the modality as the slow index.
Fusions keep their proxies as one parameter of shape (C, K, M, C): class, proxy of that class, modality, score.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion, check_number

EPSILON = 1e-12  # the least norm that a vector is divided by, as in torch.nn.functional.normalize


class ProxyFusion(Fusion):
    """A fusion whose one parameter, `proxies`, learns at `proxy_lr_multiplier` times the backbone's rate."""

    proxies: nn.Parameter

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        proxy_lr_multiplier: float,
        ignore_index: int,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight, label_smoothing)
        check_number("proxy_lr_multiplier", proxy_lr_multiplier, above=0)
        self.proxy_lr_multiplier = proxy_lr_multiplier

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.proxies], "lr": lr * self.proxy_lr_multiplier}]


def new_proxies(num_classes: int, proxies_per_class: int, num_modalities: int) -> nn.Parameter:
    """Fresh proxies (C, K, M, C), drawn as the authors' code draws them.

    That is kaiming_uniform(a=sqrt 5) on a (D, C * K) tensor, whose fan-in is C * K: uniform within 1 / sqrt(C * K).
    Drawing in that layout and rearranging keeps a seed's proxies equal to theirs.
    """
    check_number("proxies_per_class", proxies_per_class, at_least=1, whole=True)
    drawn = torch.empty(num_modalities * num_classes, num_classes * proxies_per_class)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))
    shape = (num_classes, proxies_per_class, num_modalities, num_classes)
    return nn.Parameter(drawn.t().reshape(shape).contiguous())


def as_rows(proxies: Tensor) -> Tensor:
    """Proxies (C, K, M, C) as rows (C * K, D)."""
    return proxies.flatten(2).flatten(0, 1)


def lengths(rows: Tensor, modalities: int, mask: Tensor) -> Tensor:
    """The length of each row (Q, D) in the space of the modalities that a sample has, mask (B, M): (Q, B), at least
    1e-12, as torch.nn.functional.normalize takes it.
    """
    squares = rows.square().unflatten(1, (modalities, -1)).sum(dim=2)
    of_samples: Tensor = squares @ mask.t().to(rows.dtype)
    return of_samples.clamp(min=EPSILON**2).sqrt()
