"""FUML: fuzzy multimodal learning (Duan et al. 2025, ICML)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss.fusion.base import Fusion, check_number

SMALLEST = 1e-7  # credibilities are clamped to this distance from 0 and 1 inside the logarithms of the loss
LOG_EPSILON = 1e-11  # added inside the logarithms of the entropy


class FUML(Fusion):
    """Memberships in fuzzy sets, averaged with weights from uncertainty and conflict. Reads logits x.

        m = max(0, x / ||x||_norm): memberships of one modality, in [0, 1]
        c_k = (m_k + 1 - max_{l != k} m_l) / 2: credibility of class k; in training that of the true class y stays, and
              r_k = (m_k + 1 - m_y) / 2 for the others
        u = 1 / (C ln 2) sum_k H(c_k), H(q) = -q ln q - (1 - q) ln(1 - q): uncertainty (of r in training)
        o_v = 1 / (M - 1) sum_j (1 - cos(m_v, m_j)): conflict with the others (and with itself, where m_v is all 0)
        w = softmax over the modalities of (1 - u)(1 - o);    m_a = sum_v w_v m_v: the fused memberships
        loss = mean over the batch of sum over the modalities and m_a of sum_k BCE(r_k, 1[k = y])

    All of it, M too, is of the modalities that a sample has; a single one has w = 1.

    The weights are nearly flat: exponents lie in [0, 1], so none is more than e times another. The weights of the loss
    see the target, those of the prediction do not.

    As released (github.com/siyuancncd/FUML, MIT), but for the probabilities: a credibility is no distribution, so they
    are c / sum_k c_k, and the logits log c, which leaves the predicted class as it is.

    Args:
        num_classes: C.
        num_modalities: M.
        norm: which norm of the scores memberships are relative to; 3 in the released code.
        ignore_index, reduction, weight: see `Fusion`.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        norm: float = 3.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight)
        check_number("norm", norm, at_least=1)
        self.norm = norm

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = self.kept(target)
        true = F.one_hot(target if kept is None else target.where(kept, 0), self.num_classes).to(scores.dtype)
        memberships = self._memberships(scores)
        of_each = _credibility_given(memberships, true.unsqueeze(1))
        fused = _credibility_given(self._fused(memberships, of_each, mask), true)
        every = torch.cat([of_each, fused.unsqueeze(1)], dim=1).clamp(SMALLEST, 1 - SMALLEST)
        losses = F.binary_cross_entropy(every, true.unsqueeze(1).expand_as(every), reduction="none")
        if mask is not None:
            losses = losses.masked_fill(~F.pad(mask, (0, 1), value=True).unsqueeze(2), 0)
        return self.reduced(self.weighted(losses.sum(dim=(1, 2)), target), target)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        memberships = self._memberships(scores)
        fused = self._fused(memberships, _credibility(memberships), mask)
        return _credibility(fused).clamp(min=SMALLEST).log()

    def compute_weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        memberships = self._memberships(scores)
        return self._weights(memberships, _credibility(memberships), mask)

    def _memberships(self, scores: Tensor) -> Tensor:
        return F.normalize(scores, p=self.norm, dim=2).relu().clamp(max=1)  # above by rounding

    def _fused(self, memberships: Tensor, credibility: Tensor, mask: Tensor | None) -> Tensor:
        return (self._weights(memberships, credibility, mask).unsqueeze(2) * memberships).sum(dim=1).clamp(max=1)

    def _weights(self, memberships: Tensor, credibility: Tensor, mask: Tensor | None) -> Tensor:
        """w (B, M)."""
        entropy = _entropy(credibility) + _entropy(1 - credibility)
        uncertainty = entropy.sum(dim=2) / (self.num_classes * math.log(2))
        direction = F.normalize(memberships, dim=2)
        cosines = (direction * direction.sum(dim=1, keepdim=True)).sum(dim=2)  # the one with itself among them
        if mask is None:
            conflict = (self.num_modalities - cosines) / max(self.num_modalities - 1, 1)
            return ((1 - uncertainty) * (1 - conflict)).softmax(dim=1)
        modalities = mask.sum(dim=1, keepdim=True)  # what is missing has no direction, so that it adds to no cosine
        conflict = (modalities - cosines) / (modalities - 1).clamp(min=1)
        lowest = torch.finfo(memberships.dtype).min  # finite: also where an ignored sample has none at all
        return ((1 - uncertainty) * (1 - conflict)).masked_fill(~mask, lowest).softmax(dim=1)


def _credibility(memberships: Tensor) -> Tensor:
    """c, over the last axis."""
    ranked = F.pad(memberships, (0, 1)).topk(2, dim=-1)  # of one class alone the others' largest membership is 0
    first, second = ranked.values.split(1, dim=-1)
    classes = torch.arange(memberships.shape[-1], device=memberships.device)
    return (memberships + 1 - torch.where(ranked.indices[..., :1] == classes, second, first)) / 2


def _credibility_given(memberships: Tensor, true: Tensor) -> Tensor:
    """r, over the last axis, with the true class as a row of 0 and 1."""
    of_true = (memberships * true).sum(dim=-1, keepdim=True)
    largest_other = (memberships * (1 - true)).amax(dim=-1, keepdim=True)
    return (memberships + 1 - torch.where(true > 0, largest_other, of_true)) / 2


def _entropy(q: Tensor) -> Tensor:
    return -q * (q + LOG_EPSILON).log()
