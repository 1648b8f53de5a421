"""Weighted SUM + CE: late fusion by adding up with fixed weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multimodal_loss.fusion.base import Fusion


class WeightedSumCrossEntropy(Fusion):
    """Cross-entropy of a weighted sum of the modality scores: z = sum_m w_m x^m.

    Args:
        weights: one number per modality, in the order of the modalities; by default 1 / M each.
            On EPIC-KITCHENS, X-Norm's late fusion takes 0.3 (RGB) and 0.7 (flow) on logits.

    Raises:
        ValueError: another number of weights than of modalities.
    """

    weights: Tensor

    def __init__(self, num_classes: int, num_modalities: int, weights: Sequence[float] | None = None) -> None:
        super().__init__(num_classes, num_modalities)
        values = [1.0 / num_modalities] * num_modalities if weights is None else [float(weight) for weight in weights]
        if len(values) != num_modalities:
            raise ValueError(f"weights must hold one number per modality ({num_modalities}), got {len(values)}")
        # Fixed by the config, not learned: no part of a checkpoint.
        self.register_buffer("weights", torch.tensor(values), persistent=False)

    def compute_logits(self, scores: Tensor) -> Tensor:
        return (self.weights.to(scores.dtype)[:, None] * scores).sum(dim=1)
