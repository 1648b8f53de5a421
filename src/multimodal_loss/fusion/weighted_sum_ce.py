"""Weighted SUM + CE: late fusion by adding up with fixed weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, numbers


class WeightedSumCrossEntropy(Fusion):
    """Cross-entropy of a weighted sum of the modality scores: z = sum_m w_m x^m, over those that a sample has.

    Args:
        weights: one number per modality, in the order of the modalities; by default 1 / M each, which is the mean of
            the modalities that a sample has. On EPIC-KITCHENS, X-Norm's late fusion takes 0.3 (RGB) and 0.7 (flow) on
            logits.
        ignore_index, reduction, weight, label_smoothing: see `Fusion`.

    Raises:
        ValueError: another number of weights than of modalities, or a weight that is no number.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        weights: Sequence[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight, label_smoothing)
        self._of_mean = weights is None
        given = [1 / num_modalities] * num_modalities if weights is None else weights
        self.weights = numbers("weights", given, num_modalities, "modality")

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and self._of_mean:
            return scores.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        weighted = [weight * scores[:, m] for m, weight in enumerate(self.weights)]
        return torch.stack(weighted).sum(dim=0)
