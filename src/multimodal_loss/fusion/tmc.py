"""TMC: trusted multi-view classification (Han, Zhang, Fu, Zhou 2021, ICLR, arXiv 2102.02051)."""

from collections.abc import Sequence

from torch import Tensor

from multimodal_loss.fusion.evidential import EvidentialFusion, evidence_of


class TMC(EvidentialFusion):
    """Evidence of the modalities combined by Dempster's rule. Reads logits; see `EvidentialFusion` for the terms.

    The rule (eq. 4-5), one modality after another in any order, comes to

        1 + f_k / C = prod_m (1 + e_mk / C)

    since with belief b = e / S and uncertainty u = C / S it adds up ratios b / u = e / C as r1 r2 + r1 + r2, and its
    conflict cancels: a product of experts, for any number of modalities, in which two sure ones that disagree give a
    sure answer. The loss is the sum of the M + 1 evidential losses, of the modalities and of f (eq. 12). Product
    and sum are over the modalities that a sample has.

    As released (github.com/hanmenghan/TMC): epochs count from 1, annealing over 50 of 8 steps each, the test set scaled
    by itself. This is its loss and its fused evidence; ETMC's pseudo-modality would be one more row of scores.

    Args:
        num_classes: C.
        num_modalities: M.
        annealing_epochs: until the divergence has its full weight; an epoch of full batches is one step, so 400 there
            are the original's 50.
        ignore_index, reduction, weight: see `Fusion`.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        annealing_epochs: int = 50,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, num_modalities, annealing_epochs, ignore_index, reduction, weight)

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        evidence = evidence_of(scores, mask)
        losses = self.losses(evidence, self.fused_evidence(evidence), target, mask).sum(dim=1)
        return self.reduced(self.weighted(losses, target), target).to(scores.dtype)

    def fused_evidence(self, evidence: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C) from the modalities' evidence (B, M, C)."""
        return self.num_classes * (evidence / self.num_classes).log1p().sum(dim=1).expm1()
