"""Multitask: a loss of its own for every modality, and an ensemble of their predictions fitted afterwards (MOMA)."""

from collections.abc import Callable

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
    travels with the checkpoint; "mean", the mean of the probabilities.

    Args:
        loss: "nll" of each modality's softmax; "cross_entropy_of_probabilities" takes a second softmax, as the fusions
            that read probabilities do.
        ensemble: "logistic" or "mean".
        ignore_index: samples with this target leave the loss, and the fit, as if they were not there.
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
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index)
        check_choice("loss", loss, LOSSES)
        check_choice("ensemble", ensemble, ENSEMBLES)
        self.loss = loss
        self.ensemble = ensemble
        self.register_buffer("ensemble_weight", torch.zeros(num_classes, num_modalities * num_classes))
        self.register_buffer("ensemble_bias", torch.zeros(num_classes))

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        logits = scores if self.loss == "nll" else scores.softmax(dim=-1)
        losses = [self.cross_entropy(of_one, target) for of_one in logits.unbind(dim=1)]
        return torch.stack(losses).sum()

    def compute_logits(self, scores: Tensor) -> Tensor:
        if self.ensemble == "mean":
            return scores.log_softmax(dim=-1).logsumexp(dim=1)  # softmax of this is the mean of the probabilities
        weight, bias = self.ensemble_weight.to(scores.dtype), self.ensemble_bias.to(scores.dtype)
        return F.linear(scores.softmax(dim=-1).flatten(1), weight, bias)

    @torch.no_grad()
    def after_training(self, scores: Callable[[], Tensor], target: Tensor) -> None:
        """MOMA's second step, where the ensemble is by logistic regression (penalty 1)."""
        if self.ensemble != "logistic":
            return
        from multimodal_loss.fusion.logistic import fit_logistic  # here: the losses need torch alone

        kept = target != self.ignore_index
        probabilities = scores()[kept].softmax(dim=-1).flatten(1)
        weight, bias = fit_logistic(probabilities, target[kept], self.num_classes, C=1.0)
        self.ensemble_weight.copy_(weight)
        self.ensemble_bias.copy_(bias)
