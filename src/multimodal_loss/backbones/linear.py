"""One linear layer over all features: with trainer=logistic, logistic regression."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Scores (B, 1, C) from M vectors side by side: early fusion, a single score for all modalities together."""

    joint = True

    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(torch.Size(shape).numel() for shape in feature_shapes), num_classes)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.layer(torch.cat([x.flatten(1) for x in inputs], dim=1))
        return scores.unsqueeze(1)
