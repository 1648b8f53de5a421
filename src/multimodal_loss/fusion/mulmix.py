"""Mulmix: each mixture of modalities predicts, and learns where the others doubt (Liu, Li, Xu, Natarajan 2018)."""

import torch
from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion, check_choice, check_number, mean_of_kept
from multimodal_loss.fusion.gradients import with_own_gradient
from multimodal_loss.fusion.mulmix_subsets import (
    MIN_DOUBT,
    members_of_subsets,
    subset_loss_and_gradient,
    subset_losses,
)

CANDIDATES = {"sum": 20, "mean": 10, "heads": 4}  # with the largest number of modalities each can do
REDUCTIONS = ("auto", "sum", "mean")
MAX_SUMMED = 4  # "auto" sums over candidates up to this many modalities
MAX_ENUMERATED_SUMS = 6  # above it, candidates by sum go through `mulmix_subsets`


class Mulmix(Fusion):
    """Multiplicative combination of modality mixtures (arXiv 1805.11730, section 3).

    The candidates are the N = 2^M - 1 non-empty subsets of the modalities, each with class probabilities p_c. For a
    class y:
      q_c = (the product over the other candidates j of 1 - p_j^y) ^ (beta / (N - 1)), without gradient,
      L^y = - sum_c q_c log p_c^y.
    Loss = the batch mean of L^target; logits = -L^y, so that the prediction is the class with the least loss. exp(-L^y)
    is not normalised: the probabilities softmax(-L^y) are this project's reading.

    A candidate's logits are by default the sum of its members' scores. Logits or log-probabilities as scores make it a
    product of experts; probabilities a doubled softmax, as SUM + CE takes it, which the numbers of the paper under
    study speak for (it does not say). Exact for up to 20 modalities: from 7 on the subsets are never listed (see
    `mulmix_subsets`), `logits` carry no gradient there, and the loss has no second derivative.

    Args:
        beta: how strongly a candidate is silenced once the others are sure; 0 trains all alike.
        candidates: a candidate's logits from its members: "sum"; "mean", listed one by one, up to 10 modalities;
            "heads", a linear layer of its own over the concatenated members, as in the original, up to 4 modalities.
        candidate_reduction: "sum" as in the original; "mean", L / N, where the number of candidates would multiply the
            loss by hundreds of thousands; "auto": sum up to 4 modalities, beyond the original's 3, and mean above.
        ignore_index: samples with this target leave the loss as if they were not in the batch.

    Raises:
        ValueError: a value that an option does not know, beta below 0, or more modalities than the kind of candidates
            can do.
    """

    members: Tensor

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        beta: float = 0.5,
        candidates: str = "sum",
        candidate_reduction: str = "auto",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index)
        check_choice("candidates", candidates, tuple(CANDIDATES))
        check_choice("candidate_reduction", candidate_reduction, REDUCTIONS)
        if num_modalities > CANDIDATES[candidates]:
            raise ValueError(
                f"candidates={candidates} takes at most {CANDIDATES[candidates]} modalities, got {num_modalities}: "
                f"there would be {2**num_modalities - 1} candidates"
            )
        check_number("beta", beta, at_least=0)
        self.beta = beta
        self.candidates = candidates
        self.candidate_reduction = candidate_reduction
        self._listed = candidates != "sum" or num_modalities <= MAX_ENUMERATED_SUMS
        if self._listed:
            self.register_buffer("members", members_of_subsets(num_modalities)[1:], persistent=False)
        if candidates == "heads":
            self.heads = nn.ModuleList(nn.Linear(int(row.sum()) * num_classes, num_classes) for row in self.members)

    def compute_logits(self, scores: Tensor) -> Tensor:
        if not self._listed:
            return -subset_losses(scores, self.beta) * self._weight()
        return -self._loss(self._candidate_log_probabilities(scores)).t() * self._weight()

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        kept = self.kept(target)
        target = target if kept is None else target.where(kept, 0)
        if not self._listed:
            loss = with_own_gradient(
                lambda wanted: subset_loss_and_gradient(scores, target, kept, self.beta, wanted), None, scores
            )
            return loss * self._weight()
        log_p = self._candidate_log_probabilities(scores)
        of_target = log_p.gather(1, target.expand(len(log_p), 1, -1))[:, 0]
        return mean_of_kept(self._loss(of_target), kept) * self._weight()

    def _weight(self) -> float:
        """What the sum over candidates is multiplied by."""
        summed = self.candidate_reduction == "sum"
        if self.candidate_reduction == "auto":
            summed = self.num_modalities <= MAX_SUMMED
        return 1.0 if summed else 1.0 / (2**self.num_modalities - 1)

    def _candidate_log_probabilities(self, x: Tensor) -> Tensor:
        """log p (N, C, B), the samples last, where softmax and sums are quickest for few classes."""
        if self.candidates == "heads":
            kept = self.members.bool().unbind()
            logits = [head(x[:, row].flatten(1)) for head, row in zip(self.heads, kept, strict=True)]
            return torch.stack(logits).mT.log_softmax(dim=1)
        members = self.members.to(x.dtype)
        if self.candidates == "mean":
            members = members / members.sum(dim=1, keepdim=True)
        summed = members @ x.permute(1, 2, 0).flatten(1)
        return summed.view(len(members), self.num_classes, len(x)).log_softmax(dim=1)

    def _loss(self, log_p: Tensor) -> Tensor:
        """L, summed over the candidates, from their log p (N, ..., B): (..., B)."""
        with torch.no_grad():
            doubt = (-torch.expm1(log_p)).clamp(min=MIN_DOUBT).log()
            q = ((doubt.sum(dim=0) - doubt) * (self.beta / max(len(log_p) - 1, 1))).exp()
        return -(q * log_p).sum(dim=0)
