"""Multitask: a loss of its own for every modality, and an ensemble of their predictions fitted afterwards (MOMA)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, check_choice

LOSSES = ("nll", "cross_entropy_of_probabilities")
ENSEMBLES = ("logistic", "mean")


class Multitask(Fusion):
    """The sum over modalities of each one's cross-entropy; nothing is fused while training. Reads logits.

    The fused prediction is the second step of MOMA ("Ensemble" in Table 5): "logistic", logistic regression on the
    modalities' probabilities side by side (M * C numbers), which `after_training` fits on the training samples (it
    needs scikit-learn) and puts into the buffers `ensemble_weight` (C, M * C) and `ensemble_bias` (C,), so that it
    travels with the checkpoint; "mean", the mean of the probabilities, which "logistic" also predicts until it is
    fitted (a trainer that stops by validation sees that).

    Of a sample that lacks modalities the loss sums the others' cross-entropies (its mean is still over samples), "mean"
    is over the others, and the regression reads the others: its terms of what is missing are 0.

    Args:
        loss: "nll" of each modality's softmax; "cross_entropy_of_probabilities" takes a second softmax, as the fusions
            that read probabilities do.
        ensemble: "logistic" or "mean".
        ignore_index: samples with this target leave the loss, and the fit, as if they were not there.
        reduction, weight, label_smoothing: see `Fusion`.
    """

    ensemble_weight: Tensor
    ensemble_bias: Tensor

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        loss: str = "nll",
        ensemble: str = "logistic",
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight, label_smoothing)
        check_choice("loss", loss, LOSSES)
        check_choice("ensemble", ensemble, ENSEMBLES)
        self.loss = loss
        self.ensemble = ensemble
        self.register_buffer("ensemble_weight", torch.zeros(num_classes, num_modalities * num_classes))
        self.register_buffer("ensemble_bias", torch.zeros(num_classes))

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = scores if self.loss == "nll" else scores.softmax(dim=-1)
        if mask is not None:
            of_each = self.cross_entropies(logits, target).masked_fill(~mask, 0)
            return self.reduced(of_each.sum(dim=1), target)
        losses = [self.cross_entropy(of_one, target) for of_one in logits.unbind(dim=1)]
        return torch.stack(losses).sum(dim=0)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        log_p = scores.log_softmax(dim=-1)
        if mask is not None:
            log_p = log_p.masked_fill(~mask.unsqueeze(2), -torch.inf)
        mean = log_p.logsumexp(dim=1)  # softmax of this is the mean of the probabilities
        if self.ensemble == "mean":
            return mean
        weight, bias = self.ensemble_weight.to(scores.dtype), self.ensemble_bias.to(scores.dtype)
        fitted = F.linear(_side_by_side(scores, mask), weight, bias)
        # Without weights every epoch would predict the same, and stopping by validation would keep the first.
        return torch.where((weight != 0).any() | (bias != 0).any(), fitted, mean)

    @torch.no_grad()
    def after_training(self, scores: Callable[[], Tensor], target: Tensor, mask: Tensor | None = None) -> None:
        """MOMA's second step, where the ensemble is by logistic regression (penalty 1)."""
        if self.ensemble != "logistic":
            return
        # Here: the losses need torch alone.
        from multimodal_loss.fusion.logistic import TOLERANCE_OF_SCORES, fit_logistic

        kept = target != self.ignore_index
        probabilities = _side_by_side(scores(), mask)
        x, y = probabilities[kept], target[kept]
        weight, bias = fit_logistic(x, y, self.num_classes, C=1.0, tolerance=TOLERANCE_OF_SCORES)
        self.ensemble_weight.copy_(weight)
        self.ensemble_bias.copy_(bias)


def _side_by_side(scores: Tensor, mask: Tensor | None) -> Tensor:
    """What the regression reads: each modality's probabilities (B, M * C), 0 where it is missing."""
    p = scores.softmax(dim=-1)
    return (p if mask is None else p.masked_fill(~mask.unsqueeze(2), 0)).flatten(1)
