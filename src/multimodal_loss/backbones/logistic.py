"""Logistic regression over all features: the baseline that any network has to beat."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multimodal_loss.errors import require_number
from multimodal_loss.fusion.logistic import cross_fitted, fit_logistic


class LogisticRegression(nn.Module):
    """Scores (B, 1, C) from M vectors side by side: early fusion, fitted by scikit-learn instead of being trained.

    Reads well with fusion=unimodal on logits: of probabilities the loss would take a second softmax.

    Args:
        feature_shapes: shape of one sample of each modality; any shape is flattened, widths may differ.
        num_classes: C.
        C: inverse of the L2 penalty; standardised features want it small where they are many. None: of 1e-4 to 10 the
            one with the least NLL over five folds of the training rows.

    `layer` holds the coefficients once `fit` has been called. `deterministic`: every seed gives the same.
    """

    joint = True
    deterministic = True

    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int, C: float | None = 0.01) -> None:
        super().__init__()
        if C is not None:
            require_number("backbone.C", C, positive=True)
        self.C = C
        self.layer = nn.Linear(sum(torch.Size(shape).numel() for shape in feature_shapes), num_classes)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.layer(_side_by_side(inputs))
        return scores.unsqueeze(1)

    @torch.no_grad()
    def fit(self, inputs: Sequence[Tensor], target: Tensor) -> None:
        """Take the coefficients fitted to all training rows, of which `inputs` holds each modality's."""
        features, classes = _side_by_side(inputs), self.layer.out_features
        if self.C is None:
            weight, bias, _ = cross_fitted(features, target, classes)
        else:
            weight, bias = fit_logistic(features, target, classes, self.C)
        self.layer.weight.copy_(weight)
        self.layer.bias.copy_(bias)


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten(1) for x in inputs], dim=1)
