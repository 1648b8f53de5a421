"""The MultiModal loss (Moon & Lee, Machine Learning 114, 2025, arXiv 2308.10486)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss.fusion.base import check_choice, check_number, patterns, predicted_shares
from multimodal_loss.fusion.gradients import autograd_only, with_own_gradient
from multimodal_loss.fusion.multimodal_fused import (
    MAX_INVERSE_GAMMA,
    losses_and_gradients,
    losses_and_gradients_of_kinds,
)
from multimodal_loss.fusion.proxies import EPSILON, ProxyFusion, as_rows, lengths, new_proxies
from multimodal_loss.fusion.shapley import shapley_values

VARIANTS = ("released", "paper")
WITHOUT_ATTENTION = ("none_sum", "none_zero")
ATTENTIONS = ("soft", "hard_global", "hard_per_class", *WITHOUT_ATTENTION)
ORDERS = 32
MIN_OF_KIND = 64  # with fewer samples that lack the same modalities, on average, it is quicker to take all at once
CLASS_SCORES = ("class", "proxy", "proxy_times_k")


class MultiModalLoss(ProxyFusion):
    """Proxies over all modalities jointly, which score the classes and attend to the modalities' outputs.

    With x (M, C) the modality scores of one sample, concatenated modality after modality to D = M * C numbers:
      w_ck = the rectified proxy, max(v_ck, 0) as a unit vector; s_ck = cos(x, w_ck)                            (eq. 3)
      a = softmax of s / gamma over all C * K proxies; r = sum_ck a_ck w_ck                                     (eq. 4)
      A_c' = sum_m x_mc' (1 + r_mc'): the attended output                                                       (eq. 5)
      S_c = sum_k p_ck s_ck with p the softmax of s / gamma over the classes, for each k: the class score       (eq. 6)
      logits = S + A; loss = their mean cross-entropy                                                           (eq. 7)

    These are the formulas of the authors' released code; `variant="paper"` follows the paper's text instead.

    Of a sample that lacks modalities the query x, the proxies v and the sums over m have the others alone: w_ck is that
    part of v_ck, rectified and of length 1. Of a single modality A_c' is x_c' (1 + r_c').

    After training, `attention(scores)` is r, and `contributions(scores)` what each modality adds to each fused logit. A
    modality's weight is its share of what all add to the logit of the predicted class, where less than 0 counts as 0.

    Args:
        num_classes: C.
        num_modalities: M.
        proxies_per_class: K. The parameter `proxies` has shape (C, K, M, C): raw values, before clamp and norm.
        gamma: temperature of both softmaxes.
        variant: "released": cosine to rectified unit proxies; "paper": eq. 3 as printed, a raw dot product with free
            proxies.
        attention: "soft" (eq. 4); "hard_global": a is 1 at the closest of all proxies, 0 elsewhere; "hard_per_class":
            output c' is attended through the closest proxy of class c' alone; without attention, "none_sum": a = 0, so
            that A = sum_m x, or "none_zero": A = 0. All but the first are ablations (Table 6).
        class_score: the axis of p: "class" (eq. 6); "proxy": over the K proxies of a class, as SoftTriple does, which
            also takes S from [0, K] to [0, 1]; "proxy_times_k": the same times K. The last two are ablations (Table 6).
        attends_to: None: x, as above. "logits", an option of ours: it reads logits, compares the proxies with x = their
            softmax in each modality, and attends to the logits themselves, l less their mean over the classes: A_c' =
            sum_m l_mc' (1 + r_mc'). So modalities that agree add up, as in a product of experts; probabilities only
            average.
        proxy_lr_multiplier: the proxies' learning rate is this times the backbone's (see `parameter_groups`).
        ignore_index, reduction, weight, label_smoothing: see `Fusion`. "none" and label smoothing take the slower way
            that the ablations take, with several arrays of B * C * K numbers.

    Example:
        >>> loss_function = MultiModalLoss(num_classes=3, num_modalities=2)
        >>> scores = torch.randn(8, 2, 3).softmax(dim=-1)  # (B, M, C): each modality's class probabilities
        >>> loss_function(scores, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])).backward()
        >>> loss_function.proxies.grad.shape  # the proxies are parameters: give them to the optimiser
        torch.Size([3, 20, 2, 3])
        >>> loss_function.probabilities(scores).argmax(dim=-1).shape
        torch.Size([8])
        >>> mask = torch.tensor([[True, False]] + 7 * [[True, True]])  # the first sample lacks the second modality
        >>> loss_function.modality_weights(scores, mask)[0]
        tensor([1., 0.], grad_fn=<SelectBackward0>)

    Raises:
        ValueError: a value that an option does not know, gamma or proxy_lr_multiplier not above 0, or sizes that
            are no whole numbers of at least 1.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        proxies_per_class: int = 20,
        gamma: float = 0.1,
        variant: str = "released",
        attention: str = "soft",
        class_score: str = "class",
        proxy_lr_multiplier: float = 1.0,
        attends_to: str | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            num_classes, num_modalities, proxy_lr_multiplier, ignore_index, reduction, weight, label_smoothing
        )
        check_choice("variant", variant, VARIANTS)
        check_choice("attention", attention, ATTENTIONS)
        check_choice("class_score", class_score, CLASS_SCORES)
        if attends_to is not None:
            check_choice("attends_to", attends_to, ("logits",))
        check_number("gamma", gamma, above=0)
        self.proxies_per_class = proxies_per_class
        self.gamma = gamma
        self.variant = variant
        self._attention = attention
        self.class_score = class_score
        self.attends_to = attends_to
        self.proxies = new_proxies(num_classes, proxies_per_class, num_modalities)

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self._has_fused_loss() or autograd_only():
            return super().compute_loss(scores, target, mask)
        kinds = None
        if mask is not None:
            kinds = patterns(mask) if mask.device.type == "cpu" else ()
            if not 0 < len(kinds) * MIN_OF_KIND <= len(mask):
                return super().compute_loss(scores, target, mask)
        proxies, kept = self.proxies, self.kept(target)
        safe = target if kept is None else target.where(kept, 0)
        share = self.divisors(target, scores)

        def fused(wanted: tuple[bool, ...]) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
            inputs = (scores, proxies, safe, share, self.gamma, wanted)
            losses, gradients = (
                losses_and_gradients(*inputs) if kinds is None else losses_and_gradients_of_kinds(*inputs, kinds)
            )
            return self.reduced(self.weighted(losses, target), target), gradients

        def plain(x: Tensor, raw: Tensor) -> Tensor:
            return self.cross_entropy(self._logits(x, raw, mask), target)

        return with_own_gradient(fused, plain, scores, proxies)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._logits(scores, self.proxies, mask)

    def _logits(self, scores: Tensor, raw_proxies: Tensor, mask: Tensor | None = None) -> Tensor:
        proxies, length = self._proxies_of(raw_proxies, mask)
        similarity = self._similarity(self._compared(scores, mask), proxies, length)
        return (self._class_score(similarity) + self._attended_output(scores, similarity, proxies, length)).t()

    def attention(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """r of eq. 5 (B, M, C): what the proxies that a sample attends to hold for each modality and class.

        Zeros without attention ("none_sum", "none_zero"), and for what is missing. Errors as of `logits`.
        """
        return self._on_scores("_attention_to", scores, mask)

    def contributions(self, scores: Tensor, orders: int = ORDERS, mask: Tensor | None = None) -> Tensor:
        """How much each modality adds to each fused logit: (B, M, C), whose sum over M is the logits.

        The attended output is a sum over modalities, A = sum_m x_m (1 + r_m), and split as it stands. The class score S
        is of all modalities jointly, and split by Shapley values: what a modality adds to S when it joins those before
        it, as the mean over all orders in which they may come. One that has not joined has scores of 0: it is not in
        the query, which (for "released") is the direction of what is left; without any, S is 0. With more than 4
        modalities the mean is over `orders` random orders and their reverses, the same ones in every call: the sum is
        still the logits, the split an estimate. What is missing (`mask`) adds 0, and the others are split among
        themselves.

        Raises:
            ValueError: `orders` below 1; otherwise as `logits`.
        """
        check_number("orders", orders, at_least=1, whole=True)
        return self._on_scores("_contributions", scores, mask, orders=orders)

    def compute_weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return predicted_shares(self._contributions(scores, mask), mask)

    def diagnostics(self, scores: Callable[[], Tensor], target: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        return {"proxies": self.proxy_diagnostics(scores(), target, mask)}

    def extra_arrays(self) -> dict[str, Tensor]:
        return {"proxies": self.effective_proxies().detach()}

    @torch.no_grad()
    def proxy_diagnostics(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> dict[str, list[int]]:
        """What became of each class's K proxies, on the given samples (B, M, C) and their classes (B,).

        Returns, as one number per class: "alive", proxies that are not zero after the clamp, since one that is gets no
        gradient any more; "used", proxies that are the closest of their class to at least one sample of that class,
        the ones that it attends to most among these; "inverted", those of the used ones that hold, for at least one
        modality, more for another class than for their own; "distinct", groups of alive proxies, where two belong
        together if a chain of cosines above 0.99 joins them.
        """
        kept = target != self.ignore_index
        scores, mask = self._masked(scores, mask, kept)
        scores, target, mask = scores[kept], target[kept], None if mask is None else mask[kept]
        proxies = self._effective(self.proxies).to(scores.dtype)
        compared = self._compared(scores, mask)
        similarity = self._similarity(compared, *self._proxies_of(self.proxies.to(scores.dtype), mask))
        own = similarity[target, :, torch.arange(len(target), device=target.device)]
        used = torch.zeros(self.num_classes, self.proxies_per_class, dtype=torch.bool, device=target.device)
        used[target, own.argmax(dim=1)] = True
        alive = (proxies != 0).any(dim=1).view_as(used)
        held = proxies.view_as(self.proxies)
        of_own_class = held.diagonal(dim1=0, dim2=3).permute(2, 0, 1)
        inverted = used & (held.amax(dim=3) > of_own_class).any(dim=2)
        directions = F.normalize(proxies, dim=1).view(*used.shape, -1)
        cosine = directions @ directions.mT
        groups = [_count_groups(of_class[kept][:, kept] > 0.99) for of_class, kept in zip(cosine, alive, strict=True)]
        counts = {"alive": alive, "used": used, "inverted": inverted}
        return {**{kind: which.sum(dim=1).tolist() for kind, which in counts.items()}, "distinct": groups}

    def effective_proxies(self) -> Tensor:
        """The proxies as they enter the formulas, (C, K, M, C): for "released" clamped at 0 and of length 1."""
        return self._effective(self.proxies).view_as(self.proxies)

    def _has_fused_loss(self) -> bool:
        """Whether the options are those that `multimodal_fused` covers: all but the ablations and extreme gammas."""
        options = (self.variant, self._attention, self.class_score, self.attends_to)
        reduced = self.reduction != "none" and self.label_smoothing == 0
        return options == ("released", "soft", "class", None) and reduced and self.gamma * MAX_INVERSE_GAMMA >= 1

    def _attention_to(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """r (B, M, C)."""
        if self._attention in WITHOUT_ATTENTION:
            return torch.zeros_like(scores)
        proxies, length = self._proxies_of(self.proxies, mask)
        similarity = self._similarity(self._compared(scores, mask), proxies, length)
        attention = self._expected_proxy(similarity, proxies, length).permute(2, 0, 1)
        return attention if mask is None else attention.masked_fill(~mask.unsqueeze(2), 0)

    def _contributions(self, scores: Tensor, mask: Tensor | None = None, orders: int = ORDERS) -> Tensor:
        """(B, M, C)"""
        proxies, proxy_length = self._proxies_of(self.proxies, mask)
        by_modality = proxies.unflatten(1, (self.num_modalities, self.num_classes))
        compared = self._compared(scores, mask)
        products = torch.einsum("qmc,bmc->mqb", by_modality, compared)
        if proxy_length is not None:
            products = products / proxy_length

        def class_score(members: tuple[int, ...]) -> Tensor:
            """S (B, C) of these modalities alone."""
            similarity = products[list(members)].sum(dim=0)
            if self.variant == "released":
                length = torch.linalg.vector_norm(compared[:, list(members)].flatten(1), dim=1)
                similarity = similarity / length.clamp(min=EPSILON)
            return self._class_score(similarity.view(self.num_classes, self.proxies_per_class, scores.shape[0])).t()

        # Who is missing adds nothing when it joins, which leaves the Shapley values of the others what they are.
        shares = torch.stack(shapley_values(class_score, self.num_modalities, orders), dim=1)
        if mask is not None:
            shares = shares.masked_fill(~mask.unsqueeze(2), 0)
        attended = self._attended(scores) * (1 + self._attention_to(scores, mask))
        return shares if self._attention == "none_zero" else shares + attended

    def _compared(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, M, C), what proxies are compared with: 0 for what is missing."""
        if self.attends_to is None:
            return scores
        x = scores.softmax(dim=2)
        return x if mask is None else x.masked_fill(~mask.unsqueeze(2), 0)

    def _attended(self, scores: Tensor) -> Tensor:
        """What A is a sum of (B, M, C); 0 for what is missing."""
        return scores if self.attends_to is None else scores - scores.mean(dim=2, keepdim=True)

    # Below, the samples are the last axis: softmax and sums over classes and proxies run along contiguous memory.

    def _effective(self, raw_proxies: Tensor) -> Tensor:
        """Proxies as they enter the formulas, as rows (C * K, D)."""
        rows = as_rows(raw_proxies)
        return F.normalize(rows.clamp(min=0), dim=1) if self.variant == "released" else rows

    def _proxies_of(self, raw_proxies: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Proxies as rows (C * K, D), and what they are still to be divided by, for each sample (C * K, B): their
        length in the space of the modalities that it has.
        """
        if mask is None or self.variant == "paper":
            return self._effective(raw_proxies), None
        rows = as_rows(raw_proxies).clamp(min=0)
        return rows, lengths(rows, self.num_modalities, mask)

    def _similarity(self, scores: Tensor, proxies: Tensor, length: Tensor | None = None) -> Tensor:
        """s (C, K, B)."""
        query = scores.flatten(1)
        if self.variant == "released":
            query = F.normalize(query, dim=1)
        similarity = proxies @ query.t()
        if length is not None:
            similarity = similarity / length
        return similarity.view(self.num_classes, self.proxies_per_class, scores.shape[0])

    def _class_score(self, similarity: Tensor) -> Tensor:
        """S (C, B)."""
        axis = 0 if self.class_score == "class" else 1
        score = ((similarity / self.gamma).softmax(dim=axis) * similarity).sum(dim=1)
        return score * self.proxies_per_class if self.class_score == "proxy_times_k" else score

    def _attended_output(self, scores: Tensor, similarity: Tensor, proxies: Tensor, length: Tensor | None) -> Tensor:
        """A (C, B)."""
        x = self._attended(scores).permute(1, 2, 0)
        if self._attention == "none_zero":
            return torch.zeros_like(x[0])
        if self._attention == "none_sum":
            return x.sum(dim=0)
        return (x * (1 + self._expected_proxy(similarity, proxies, length))).sum(dim=0)

    def _expected_proxy(self, similarity: Tensor, proxies: Tensor, length: Tensor | None) -> Tensor:
        """r (M, C, B)."""
        shape = (self.num_modalities, self.num_classes)
        flat = similarity.flatten(0, 1)
        if self._attention == "soft":
            attention = (flat / self.gamma).softmax(dim=0)
            if length is not None:
                attention = attention / length
            return (proxies.t() @ attention).view(*shape, flat.shape[1])
        if self._attention == "hard_global":
            closest = flat.argmax(dim=0)
            expected = proxies[closest].view(flat.shape[1], *shape).permute(1, 2, 0)
            return expected if length is None else expected / length.gather(0, closest[None])
        # Entry (m, c) of the closest proxy of class c, from a table (C, K, M) of each class's own entries.
        table = proxies.view(self.num_classes, self.proxies_per_class, *shape).diagonal(dim1=0, dim2=3).permute(2, 0, 1)
        classes = torch.arange(self.num_classes, device=table.device)
        nearest = similarity.argmax(dim=1, keepdim=True)
        expected = table[classes[:, None], nearest[:, 0]].permute(2, 0, 1)
        return expected if length is None else expected / length.view_as(similarity).gather(1, nearest)[:, 0]


def _count_groups(linked: Tensor) -> int:
    """Connected components of a symmetric, reflexive relation, given as a square boolean matrix."""
    reached = linked
    for _ in range(len(linked).bit_length()):
        reached = reached.float() @ reached.float() > 0
    return len(reached.unique(dim=0)) if len(linked) else 0
