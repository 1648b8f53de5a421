"""ECML: evidential conflictive multi-view learning (Xu et al. 2024, AAAI, arXiv 2402.16897)."""

import torch
from torch import Tensor

from multimodal_loss.fusion.base import check_choice, check_number
from multimodal_loss.fusion.evidential import EvidentialFusion, certainty_of, evidence_of

AGGREGATIONS = ("released", "mean", "by_uncertainty")


class ECML(EvidentialFusion):
    """Averaged evidence, and a penalty on modalities that are sure of different things. Reads logits; see
    `EvidentialFusion` for the terms.

    With p_m = alpha_m / S_m, certainty c_m = 1 - u_m and EDL the evidential loss,

        conflict = 1 / (M - 1) sum_ij c_i c_j 1/2 sum_k |p_ik - p_jk|,    over ordered pairs of modalities; 0 for M = 1
        loss = mean over the batch of (EDL(f) + sum_m EDL(e_m)) / (M + 1) + gamma conflict

    As released (github.com/jiajunsi/RCML). The paper weighs the losses without the 1 / (M + 1). The released code takes
    the averages f = (f + e_m) / 2 one modality after another in the order they come, which gives the last one half of
    the say; the appendix orders them from high to low uncertainty, and their mean depends on no order.

    Args:
        num_classes: C.
        num_modalities: M.
        annealing_epochs: until the divergence has its full weight; an epoch of full batches is one step, so 400 there
            are the original's 50.
        gamma: weight of the conflict.
        aggregation: f. "released": (f + e_m) / 2 in the order of the modalities; "by_uncertainty": the same, for each
            sample in the order from its most to its least uncertain modality; "mean": the mean of the evidence.
        ignore_index: samples with this target leave the loss as if they were not in the batch.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        annealing_epochs: int = 50,
        gamma: float = 1.0,
        aggregation: str = "released",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, num_modalities, annealing_epochs, ignore_index)
        check_number("gamma", gamma, at_least=0)
        check_choice("aggregation", aggregation, AGGREGATIONS)
        self.gamma = gamma
        self.aggregation = aggregation

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        evidence = evidence_of(scores)
        every = torch.cat([evidence, self.fused_evidence(evidence).unsqueeze(1)], dim=1)
        losses = self.losses(every, target).mean(dim=1) + self.gamma * self._conflict(evidence)
        return self.mean(losses, target).to(scores.dtype)

    def fused_evidence(self, evidence: Tensor) -> Tensor:
        """(B, C) from the modalities' evidence (B, M, C)."""
        if self.aggregation == "mean":
            return evidence.mean(dim=1)
        if self.aggregation == "by_uncertainty":
            order = evidence.sum(dim=2).argsort(dim=1, stable=True)  # of little evidence first
            evidence = evidence.take_along_dim(order.unsqueeze(2), dim=1)
        fused = evidence[:, 0]
        for of_one in evidence.unbind(dim=1)[1:]:
            fused = (fused + of_one) / 2
        return fused

    def _conflict(self, evidence: Tensor) -> Tensor:
        """(B,)"""
        probabilities = (evidence + 1) / (evidence + 1).sum(dim=2, keepdim=True)
        distance = (probabilities.unsqueeze(1) - probabilities.unsqueeze(2)).abs().sum(dim=3) / 2
        certainty = certainty_of(evidence)
        pairs = certainty.unsqueeze(1) * certainty.unsqueeze(2) * distance
        return pairs.sum(dim=(1, 2)) / max(self.num_modalities - 1, 1)
