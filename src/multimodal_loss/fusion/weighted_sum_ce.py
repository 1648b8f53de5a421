"""Weighted SUM + CE: late fusion by adding up with fixed weights."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, check_number


class WeightedSumCrossEntropy(Fusion):
    """Cross-entropy of a weighted sum of the modality scores: z = sum_m w_m x^m.

    Args:
        weights: one number per modality, in the order of the modalities; by default 1 / M each.
            On EPIC-KITCHENS, X-Norm's late fusion takes 0.3 (RGB) and 0.7 (flow) on logits.

    Raises:
        ValueError: another number of weights than of modalities, or a weight that is no number.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        weights: Sequence[float] | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index)
        given = [1 / num_modalities] * num_modalities if weights is None else weights
        if not isinstance(given, Iterable) or isinstance(given, str):
            raise ValueError(f"weights must be a list with one number per modality ({num_modalities}), got {given!r}")
        self.weights: list[float] = []
        for m, weight in enumerate(given):
            check_number(f"weights[{m}]", weight)
            self.weights.append(float(weight))
        if len(self.weights) != num_modalities:
            raise ValueError(f"weights must hold one number per modality ({num_modalities}), got {len(self.weights)}")

    def compute_logits(self, scores: Tensor) -> Tensor:
        weighted = [weight * scores[:, m] for m, weight in enumerate(self.weights)]
        return torch.stack(weighted).sum(dim=0)
