"""Mulmix: multiplicative combination of modality mixtures (Liu, Li, Xu, Natarajan 2018, arXiv 1805.11730)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion, check_choice

CANDIDATES = ("sum", "mean", "heads")
COMBINE_IN = ("log_probabilities", "scores")
REDUCTIONS = ("auto", "sum", "mean")
MAX_CONFIDENCE = 1 - 1e-6  # p is held below this inside log(1 - p)
MIN_PROBABILITY = 1e-30  # scores are held above this before their logarithm


class Mulmix(Fusion):
    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        beta: float = 0.5,
        candidates: str = "sum",
        combine_in: str = "log_probabilities",
        candidate_reduction: str = "auto",
    ) -> None:
        super().__init__(num_classes, num_modalities)
        check_choice("candidates", candidates, CANDIDATES)
        check_choice("combine_in", combine_in, COMBINE_IN)
        check_choice("candidate_reduction", candidate_reduction, REDUCTIONS)
        self.beta = beta
        self.candidates = candidates
        self.combine_in = combine_in
        self.candidate_reduction = candidate_reduction
        codes = torch.arange(1, 2**num_modalities)
        self.register_buffer("members", (codes[:, None] >> torch.arange(num_modalities)) & 1, persistent=False)
        if candidates == "heads":
            self.heads = nn.ModuleList(
                nn.Linear(int(row.sum()) * num_classes, num_classes) for row in self.members
            )

    def compute_logits(self, scores: Tensor) -> Tensor:
        """-L^y for every class y."""
        return -self._loss_per_class(scores)

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return self._loss_per_class(scores).gather(1, target[:, None]).mean()

    def _loss_per_class(self, scores: Tensor) -> Tensor:
        log_p = self._candidate_logits(scores).log_softmax(dim=2)
        n = log_p.shape[1]
        doubt = torch.log1p(-log_p.detach().exp().clamp(max=MAX_CONFIDENCE))
        q = (self.beta * (doubt.sum(dim=1, keepdim=True) - doubt) / max(n - 1, 1)).exp()
        loss = -(q * log_p).sum(dim=1)
        mean = self.candidate_reduction == "mean" or (self.candidate_reduction == "auto" and self.num_modalities > 4)
        return loss / n if mean else loss

    def _candidate_logits(self, scores: Tensor) -> Tensor:
        x = scores.clamp(min=MIN_PROBABILITY).log() if self.combine_in == "log_probabilities" else scores
        members = self.members.to(x.dtype)
        if self.candidates == "heads":
            return torch.stack([h(x[:, r.bool()].flatten(1)) for h, r in zip(self.heads, self.members)], dim=1)
        if self.candidates == "mean":
            members = members / members.sum(dim=1, keepdim=True)
        return torch.einsum("nm,bmc->bnc", members, x)
