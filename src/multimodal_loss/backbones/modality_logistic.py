"""A logistic regression for each modality, and what is made of them: baselines without any deep fusion."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multimodal_loss.errors import require_choice
from multimodal_loss.fusion.logistic import cross_fitted, fit_logistic

COMBINATIONS = ("best", "mean", "stacking")


class ModalityLogistic(nn.Module):
    """Scores (B, 1, C) from M vectors, each through its own logistic regression, C chosen by five folds.

    Reads well with fusion=unimodal on logits, as the backbone LogisticRegression does.

    Args:
        feature_shapes: shape of one sample of each modality; any shape is flattened, widths may differ.
        num_classes: C.
        combination: all by out-of-fold predictions of the training samples. "best": the modality with the highest
            accuracy there, alone. "mean": the mean of the probabilities, each modality's after one temperature.
            "stacking": a logistic regression (C = 1) on the M * C log-probabilities (Wolpert 1992).

    `deterministic`: every seed gives the same.
    """

    joint = True
    deterministic = True
    temperatures: Tensor
    chosen: Tensor

    def __init__(
        self, feature_shapes: Sequence[Sequence[int]], num_classes: int, combination: str = "stacking"
    ) -> None:
        super().__init__()
        require_choice("backbone.combination", combination, COMBINATIONS)
        self.combination = combination
        modalities = len(feature_shapes)
        self.layers = nn.ModuleList(nn.Linear(torch.Size(s).numel(), num_classes) for s in feature_shapes)
        self.stacked = nn.Linear(modalities * num_classes, num_classes)
        self.register_buffer("temperatures", torch.ones(modalities))
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        logits = torch.stack([layer(x.flatten(1)) for layer, x in zip(self.layers, inputs, strict=True)], dim=1)
        if self.combination == "best":
            return logits[:, int(self.chosen)].unsqueeze(1)
        if self.combination == "mean":
            return (logits / self.temperatures[:, None]).log_softmax(-1).logsumexp(1, keepdim=True)
        scores: Tensor = self.stacked(_clipped(logits).flatten(1))
        return scores.unsqueeze(1)

    @torch.no_grad()
    def fit(self, inputs: Sequence[Tensor], target: Tensor) -> None:
        """Take the coefficients fitted to all training rows, of which `inputs` holds each modality's."""
        from multimodal_loss.results.metrics import fit_temperature  # backbones stand below results

        classes, y = self.stacked.out_features, target.cpu().numpy()
        out_of_fold, right = [], []
        for m, (layer, x) in enumerate(zip(self.layers, inputs, strict=True)):
            weight, bias, held_out = cross_fitted(x.flatten(1), target, classes)
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            logits = torch.from_numpy(held_out).float()
            self.temperatures[m] = fit_temperature(y, logits.softmax(-1).numpy())
            right.append(int((held_out.argmax(1) == y).sum()))
            out_of_fold.append(_clipped(logits))
        self.chosen.fill_(max(range(len(right)), key=right.__getitem__))
        weight, bias = fit_logistic(torch.cat(out_of_fold, dim=1), target, classes, C=1.0)
        self.stacked.weight.copy_(weight)
        self.stacked.bias.copy_(bias)


def _clipped(logits: Tensor) -> Tensor:
    """Log-probabilities of at least ln 1e-6: of a modality that is sure, a stacked model sees that it is, not how."""
    return logits.log_softmax(-1).clamp(min=-13.8155)
