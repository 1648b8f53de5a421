"""ECML: evidential conflictive multi-view learning (Xu et al. 2024, AAAI, arXiv 2402.16897)."""

from collections.abc import Sequence

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

    All of it, M too, is of the modalities that a sample has.

    Args:
        num_classes: C.
        num_modalities: M.
        annealing_epochs: until the divergence has its full weight; an epoch of full batches is one step, so 400 there
            are the original's 50.
        gamma: weight of the conflict.
        aggregation: f. "released": (f + e_m) / 2 in the order of the modalities; "by_uncertainty": the same, for each
            sample in the order from its most to its least uncertain modality; "mean": the mean of the evidence.
        ignore_index, reduction, weight: see `Fusion`.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        annealing_epochs: int = 50,
        gamma: float = 1.0,
        aggregation: str = "released",
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, num_modalities, annealing_epochs, ignore_index, reduction, weight)
        check_number("gamma", gamma, at_least=0)
        check_choice("aggregation", aggregation, AGGREGATIONS)
        self.gamma = gamma
        self.aggregation = aggregation

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        evidence = evidence_of(scores, mask)
        of_each = self.losses(evidence, self.fused_evidence(evidence, mask), target, mask)
        mean = of_each.mean(dim=1) if mask is None else of_each.sum(dim=1) / (mask.sum(dim=1) + 1)
        losses = mean + self.gamma * self._conflict(evidence, mask)
        return self.reduced(self.weighted(losses, target), target).to(scores.dtype)

    def fused_evidence(self, evidence: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C) from the modalities' evidence (B, M, C)."""
        if self.aggregation == "mean":
            return evidence.mean(dim=1) if mask is None else evidence.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        if self.aggregation == "by_uncertainty":
            total = evidence.sum(dim=2)
            total = total if mask is None else total.masked_fill(~mask, -1)
            order = total.argsort(dim=1, stable=True)  # of little evidence first
            evidence = evidence.gather(1, order.unsqueeze(2).expand_as(evidence))
            mask = None if mask is None else mask.gather(1, order)
        if mask is None:
            fused = evidence[:, 0]
            for of_one in evidence.unbind(dim=1)[1:]:
                fused = (fused + of_one) / 2
            return fused
        # The same, written out: of n modalities the shares 2^-(n - 1), 2^-(n - 1), 2^-(n - 2), ..., 1/2.
        after = mask.sum(dim=1, keepdim=True) - mask.cumsum(dim=1)
        first = mask & (mask.cumsum(dim=1) == 1)
        share = torch.exp2(-(after + 1 - first.to(after.dtype)).to(evidence.dtype)).masked_fill(~mask, 0)
        return (share.unsqueeze(2) * evidence).sum(dim=1)

    def _conflict(self, evidence: Tensor, mask: Tensor | None) -> Tensor:
        """(B,)"""
        probabilities = (evidence + 1) / (evidence + 1).sum(dim=2, keepdim=True)
        distance = (probabilities.unsqueeze(1) - probabilities.unsqueeze(2)).abs().sum(dim=3) / 2
        certainty = certainty_of(evidence)
        pairs = certainty.unsqueeze(1) * certainty.unsqueeze(2) * distance
        others = max(self.num_modalities - 1, 1) if mask is None else (mask.sum(dim=1) - 1).clamp(min=1)
        return pairs.sum(dim=(1, 2)) / others
