"""Multitask: a loss of its own for every modality, and an ensemble of their predictions fitted afterwards (MOMA)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, check_choice

LOSSES = ("nll", "cross_entropy_of_probabilities")
ENSEMBLES = ("logistic", "mean")


class Multitask(Fusion):
    """The sum over modalities of each one's cross-entropy; nothing is fused while training. Reads logits.

    The fused prediction is the second step of MOMA ("Ensemble" in Table 5): "logistic", logistic regression on the
    modalities' probabilities side by side (M * C numbers), which the training code fits on the training samples and
    puts into the buffers `ensemble_weight` (C, M * C) and `ensemble_bias` (C,), so that it travels with the checkpoint;
    "mean", the mean of the probabilities.

    Args:
        loss: "nll" of each modality's softmax; "cross_entropy_of_probabilities" takes a second softmax, as the fusions
            that read probabilities do.
        ensemble: "logistic" or "mean".
    """

    ensemble_weight: Tensor
    ensemble_bias: Tensor

    def __init__(self, num_classes: int, num_modalities: int, loss: str = "nll", ensemble: str = "logistic") -> None:
        super().__init__(num_classes, num_modalities)
        check_choice("loss", loss, LOSSES)
        check_choice("ensemble", ensemble, ENSEMBLES)
        self.loss = loss
        self.ensemble = ensemble
        self.register_buffer("ensemble_weight", torch.zeros(num_classes, num_modalities * num_classes))
        self.register_buffer("ensemble_bias", torch.zeros(num_classes))

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        logits = scores if self.loss == "nll" else scores.softmax(dim=-1)
        losses = [F.cross_entropy(of_one, target) for of_one in logits.unbind(dim=1)]
        return torch.stack(losses).sum()

    def compute_logits(self, scores: Tensor) -> Tensor:
        if self.ensemble == "mean":
            return scores.log_softmax(dim=-1).logsumexp(dim=1)  # softmax of this is the mean of the probabilities
        return F.linear(scores.softmax(dim=-1).flatten(1), self.ensemble_weight, self.ensemble_bias)

    @torch.no_grad()
    def set_ensemble(self, weight: Tensor, bias: Tensor) -> None:
        """Take the coefficients (C, M * C) and intercepts (C,) of a fitted logistic regression."""
        self.ensemble_weight.copy_(weight)
        self.ensemble_bias.copy_(bias)
