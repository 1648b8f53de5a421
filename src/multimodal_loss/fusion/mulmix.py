"""Mulmix: each mixture of modalities predicts, and learns where the others doubt (Liu, Li, Xu, Natarajan 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion, check_choice, check_number, patterns
from multimodal_loss.fusion.gradients import with_own_gradient
from multimodal_loss.fusion.mulmix_subsets import (
    MIN_DOUBT,
    members_of_subsets,
    subset_losses,
    subset_losses_and_gradient,
)

CANDIDATES = {"sum": 20, "mean": 10, "heads": 4}  # with the largest number of modalities each can do
CANDIDATE_REDUCTIONS = ("auto", "sum", "mean")
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

    Of a sample that lacks modalities the candidates are the subsets of the others, and N is their number; a single one
    is its own, only candidate.

    Args:
        beta: how strongly a candidate is silenced once the others are sure; 0 trains all alike.
        candidates: a candidate's logits from its members: "sum"; "mean", listed one by one, up to 10 modalities;
            "heads", a linear layer of its own over the concatenated members, as in the original, up to 4 modalities.
        candidate_reduction: "sum" as in the original; "mean", L / N, where the number of candidates would multiply the
            loss by hundreds of thousands; "auto": sum up to 4 modalities, beyond the original's 3, and mean above, by
            the M of the fusion.
        ignore_index, reduction, weight: see `Fusion`. q is of the one class y: there is no label smoothing.

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
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight)
        check_choice("candidates", candidates, tuple(CANDIDATES))
        check_choice("candidate_reduction", candidate_reduction, CANDIDATE_REDUCTIONS)
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

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        if self._listed:
            losses = self._loss(self._candidate_log_probabilities(scores), mask).t()
        elif mask is None:
            losses = subset_losses(scores, self.beta)
        else:
            losses = torch.empty_like(scores[:, 0])
            for rows, here in patterns(mask):
                losses[rows] = subset_losses(scores[rows][:, here], self.beta)
        return -losses * (self._weight() if mask is None else self._weights(scores, mask)[:, None])

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = self.kept(target)
        safe = target if kept is None else target.where(kept, 0)
        if not self._listed:
            return self._loss_over_subsets(scores, target, safe, mask)
        log_p = self._candidate_log_probabilities(scores)
        losses = self._loss(log_p.gather(1, safe.expand(len(log_p), 1, -1))[:, 0], mask)
        if mask is not None:
            return self.reduced(self.weighted(losses * self._weights(scores, mask), target), target)
        return self.reduced(self.weighted(losses, target), target) * self._weight()

    def _loss_over_subsets(self, scores: Tensor, target: Tensor, safe: Tensor, mask: Tensor | None) -> Tensor:
        share = self.divisors(target, scores)

        def of_all(wanted: tuple[bool, ...]) -> tuple[Tensor, tuple[Tensor | None]]:
            losses, gradient = subset_losses_and_gradient(scores, safe, share, self.beta, wanted[0])
            return self.reduced(self.weighted(losses, target), target), (gradient,)

        if mask is None:
            return with_own_gradient(of_all, None, scores) * self._weight()
        weights, kinds = self._weights(scores, mask), patterns(mask)

        def of_each_kind(wanted: tuple[bool, ...]) -> tuple[Tensor, tuple[Tensor]]:
            losses, gradient = scores.new_empty(len(scores)), torch.zeros_like(scores)
            shares = share / weights
            for rows, here in kinds:
                part = scores[rows][:, here]
                losses[rows], found = subset_losses_and_gradient(part, safe[rows], shares[rows], self.beta, wanted[0])
                if found is not None:
                    gradient[rows[:, None], here] = found
            return self.reduced(self.weighted(losses * weights, target), target), (gradient,)

        return with_own_gradient(of_each_kind, None, scores)

    def _weight(self, modalities: int | None = None) -> float:
        """What the sum over the candidates of so many modalities, by default all, is multiplied by."""
        summed = self.candidate_reduction == "sum"
        if self.candidate_reduction == "auto":
            summed = self.num_modalities <= MAX_SUMMED
        return 1.0 if summed else 1.0 / (2 ** (modalities or self.num_modalities) - 1)

    def _weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The same for each sample (B,)."""
        of_number = [self._weight(modalities) for modalities in range(self.num_modalities + 1)]
        return scores.new_tensor(of_number)[mask.sum(dim=1)]

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
        return summed.view(len(members), self.num_classes, x.shape[0]).log_softmax(dim=1)

    def _loss(self, log_p: Tensor, mask: Tensor | None) -> Tensor:
        """L, summed over the candidates, from their log p (N, ..., B): (..., B)."""
        with torch.no_grad():
            doubt = (-torch.expm1(log_p)).clamp(min=MIN_DOUBT).log()
            if mask is None:
                q = ((doubt.sum(dim=0) - doubt) * (self.beta / max(len(log_p) - 1, 1))).exp()
            else:
                missing = self.members.to(log_p.dtype) @ (~mask).t().to(log_p.dtype) > 0  # (N, B)
                missing = missing.view(len(log_p), *[1] * (log_p.dim() - 2), -1)
                doubt = doubt.masked_fill(missing, 0)
                others = ((~missing).sum(dim=0) - 1).clamp(min=1).to(log_p.dtype)
                q = ((doubt.sum(dim=0) - doubt) * (self.beta / others)).exp().masked_fill(missing, 0)
        return -(q * log_p).sum(dim=0)
