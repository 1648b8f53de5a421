"""QMF: quality-aware multimodal fusion (Zhang et al. 2023, ICML, arXiv 2306.02050)."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from multimodal_loss.fusion.base import HALF_PRECISION, Fusion, check_choice, check_number, mean_of_kept, shares

VARIANTS = ("text_image", "rgbd")
RANK_MARGINS = ("released", "required")


class QMF(Fusion):
    """Logits weighted by their energy, whose order is to follow how hard a sample was so far. Reads logits x.

        conf_m = logsumexp_k(x_mk) / 10;    z = sum_m conf_m x_m: the fused logits
        H_mi = the cross-entropies of sample i by modality m, added up over the epochs; n_m = (H_m - min) / (max - min)
               over all training samples
        for pairs (i, j) of the batch, d = n_i - n_j and c = conf_i - conf_j:
        rank_m = mean over the pairs of max(0, sign(d) (c - d)), 0 where d = 0
        loss = sum_m CE(x_m) + CE(z) + rank_weight sum_m rank_m

    The method behind the rank loss (Moon et al. 2020, CRL) asks the easier sample's confidence to be higher by a margin
    of |d|; the released code flips the margin's sign, so that it may be lower by |d| unpunished: `rank_margin`.

    Precision: H stays float32 where the fusion is converted to half precision, which would round away what is added.

    H is what `begin_epoch` and the samples' positions are for: it counts each sample once an epoch, and starts at 0,
    the easiest, for samples not seen yet. Before the first `begin_epoch` the batch is all there is; nothing is kept.

    A modality that a sample lacks leaves z, the sums and all pairs with the sample; its H stays as it is.

    Early stopping watches the negative log-likelihood of the fused probabilities, since n moves by itself.

    As released (github.com/QingyangZhang/QMF, MIT), but: where max = min (RGB-D's first step) n is 0, not nan. Pairs
    are (i, i + 1), cyclic, in a shuffled batch; one in stored order, where the samples' positions rise, is often sorted
    by class, as are all training samples in one, so pairs are then (i, i + a number that changes with every epoch).

    Args:
        num_classes: C.
        num_modalities: M.
        rank_weight: lambda; 1 in the text-image experiments, 0.1 in those on RGB-D.
        variant: "text_image": no gradient goes through conf in z, and H holds this step's cross-entropies before the
            rank loss; "rgbd": it does, and they come after it.
        rank_margin: "released" or "required": max(0, sign(d) (c + d)).
        ignore_index: samples with this target leave the loss as if they were not in the batch.
    """

    reads_index: ClassVar[bool] = True
    epoch: Tensor
    history: Tensor
    latest: Tensor

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        rank_weight: float = 1.0,
        variant: str = "text_image",
        rank_margin: str = "released",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index)
        check_number("rank_weight", rank_weight, at_least=0)
        check_choice("variant", variant, VARIANTS)
        check_choice("rank_margin", rank_margin, RANK_MARGINS)
        self.rank_weight = rank_weight
        self.variant = variant
        self.rank_margin = rank_margin
        # H (M, N) of the epochs before, and the cross-entropies of this one: a sample that is seen twice in an epoch,
        # as under activation checkpointing, counts once.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("history", torch.zeros(num_modalities, 0))
        self.register_buffer("latest", torch.zeros(num_modalities, 0))

    @torch.no_grad()
    def begin_epoch(self, epoch: int, num_samples: int) -> None:
        if self.history.shape[1] != num_samples:
            self.history = self.history.new_zeros(self.num_modalities, num_samples)
            self.latest = torch.zeros_like(self.history)
        elif epoch != int(self.epoch):  # otherwise an interrupted epoch goes on
            self.history += self.latest
            self.latest.zero_()
        self.epoch.fill_(epoch)

    def monitored(
        self, scores: Tensor, target: Tensor, loss: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return self.negative_log_likelihood(scores, target, mask)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return (_confidence(scores).unsqueeze(2) * scores).sum(dim=1)  # scores of what is missing are 0

    def compute_weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """The confidences' shares, those below 0 as 0; equal ones where none is above."""
        return shares(_confidence(scores), mask)

    def compute_loss(
        self, scores: Tensor, target: Tensor, mask: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        assert index is not None
        kept = self.kept(target)
        confidence = _confidence(scores)
        weights = confidence.detach() if self.variant == "text_image" else confidence
        fused = (weights.unsqueeze(2) * scores).sum(dim=1)
        of_each = self.cross_entropies(scores, target)  # (B, M)
        if mask is not None:
            of_each = of_each.masked_fill(~mask, 0)
        counted = kept if mask is None else (mask if kept is None else mask & kept.unsqueeze(1)).t()
        hardness = self._hardness(of_each.detach().t(), index, counted).t()
        losses = of_each.sum(dim=1) + self.rank_weight * self._rank(confidence, hardness, index, kept, mask).sum(dim=1)
        return mean_of_kept(losses, kept) + self.cross_entropy(fused, target)

    @torch.no_grad()
    def _hardness(self, losses: Tensor, index: Tensor, kept: Tensor | None) -> Tensor:
        """n (M, B); the losses (M, B) of the samples at `index` are noted, those that count: (B,) or (M, B)."""
        if not self.history.shape[1]:
            total = losses if self.variant == "text_image" else torch.zeros_like(losses)
            return _scaled(total, total, kept)
        history, latest = self.history.to(losses.dtype), self.latest.to(losses.dtype)
        losses = losses if kept is None else losses.where(kept, latest[:, index])
        before = latest.index_copy(1, index, latest.new_zeros(losses.shape))
        after = latest.index_copy(1, index, losses)
        if self.training:
            self.latest.copy_(after)
        total = history + (after if self.variant == "text_image" else before)
        return _scaled(total[:, index], total)

    def _rank(
        self, confidence: Tensor, hardness: Tensor, index: Tensor, kept: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """max(0, sign(d) (c - d)) (B, M) of each sample and its partner, 0 where one lacks the modality."""
        partner = self._partners(index, kept)
        c, d = confidence - confidence[partner], hardness - hardness[partner]
        if mask is not None:
            d = d.masked_fill(~(mask & mask[partner]), 0)
        return (d.sign() * (c - d if self.rank_margin == "released" else c + d)).relu()

    def _partners(self, index: Tensor, kept: Tensor | None) -> Tensor:
        """For each sample that counts the place of another in the batch (B,): a cyclic shift among those that count."""
        place = torch.arange(len(index), device=index.device)
        order, number = place, torch.full((), len(index), device=index.device)
        if kept is not None:
            order, number = (~kept).to(torch.int8).argsort(stable=True), kept.sum()
            place = torch.zeros_like(place).index_copy(0, order, place)
        # In stored order, which ignored samples leave as it is: 1 + a number below `number` - 1 that looks random.
        shift = 1 + ((self.epoch * 2654435769) % 2**32 * (number - 1).clamp(min=0)) // 2**32
        shift = shift.where((index.diff() > 0).all() & (self.history.shape[1] > 0), 1)
        return order[(place + shift) % number.clamp(min=1)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QMF":
        before = {name: getattr(self, name) for name in ("history", "latest")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if getattr(self, name).dtype in HALF_PRECISION:
                setattr(self, name, value.to(getattr(self, name).device, torch.float32))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also a checkpoint that remembers another number of samples."""
        for name in ("history", "latest"):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.dim() == 2:
                setattr(self, name, getattr(self, name).new_zeros(self.num_modalities, saved.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _confidence(scores: Tensor) -> Tensor:
    """conf (B, M)."""
    return scores.logsumexp(dim=2) / 10


def _scaled(values: Tensor, among: Tensor, kept: Tensor | None = None) -> Tensor:
    """To [0, 1] by the least and the largest in each row of `among`, of samples that count; 0 where they are equal."""
    if not among.shape[1]:
        return values
    least = (among if kept is None else among.masked_fill(~kept, torch.inf)).amin(dim=1, keepdim=True)
    most = (among if kept is None else among.masked_fill(~kept, -torch.inf)).amax(dim=1, keepdim=True)
    return ((values - least) / (most - least).where(most > least, 1)).where(most > least, 0)
