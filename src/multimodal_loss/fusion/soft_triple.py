"""SoftTriple (Qian et al. 2019, ICCV, arXiv 1909.05235) on the concatenated modality scores."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss.fusion.base import check_number
from multimodal_loss.fusion.proxies import ProxyFusion, as_rows, lengths, new_proxies

# Inside the root of the regulariser, as the original: keeps its gradient finite where two proxies coincide.
ROOT_EPSILON = 1e-5


class SoftTriple(ProxyFusion):
    """Cross-entropy over soft-maximal cosine similarities to K signed proxies per class.

    With x the concatenation of the modality scores (M * C numbers) and s_ck = cos(x, w_ck):
    S_c = sum_k softmax_k(s_ck / gamma) s_ck (eq. 9), loss = CE(scale * (S - margin * onehot(y))) (eq. 10)
    + tau * the mean, over the pairs of proxies of one class, of half the distance between unit proxies (eq. 14-15).

    Of a sample that lacks modalities x is the concatenation of the others, and w_ck that part of the proxy. The
    regulariser is of whole proxies. It is no mean over samples: it is added once to a mean or a sum, and to each loss
    with reduction="none". Where processes average their gradients it counts once, too.

    Defaults are those of pytorch-metric-learning (scale 20, gamma 0.1, margin 0.01, no regulariser), and the paper's
    20 proxies per class. Unlike the original, it normalises x itself.

    Args:
        proxies_per_class: K.
        scale: lambda, the inverse temperature of the cross-entropy.
        gamma: temperature of the softmax over a class's proxies.
        margin: delta, subtracted from the true class's S.
        tau: weight of the regulariser that merges proxies (the original trains with 0.2); needs K of at least 2.
        proxy_lr_multiplier: the proxies' learning rate is this times the backbone's (see `parameter_groups`).
        ignore_index, reduction, weight, label_smoothing: see `Fusion`.

    Raises:
        ValueError: scale, gamma or proxy_lr_multiplier not above 0, a negative tau, a margin that is no number, or
            sizes that are no whole numbers of at least 1.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        proxies_per_class: int = 20,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.0,
        proxy_lr_multiplier: float = 1.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            num_classes, num_modalities, proxy_lr_multiplier, ignore_index, reduction, weight, label_smoothing
        )
        check_number("scale", scale, above=0)
        check_number("gamma", gamma, above=0)
        check_number("margin", margin)
        check_number("tau", tau, at_least=0)
        self.proxies = new_proxies(num_classes, proxies_per_class, num_modalities)
        if tau > 0 and proxies_per_class < 2:
            raise ValueError("tau needs at least 2 proxies per class: it weighs distances within a class")
        self.proxies_per_class = proxies_per_class
        self.scale = scale
        self.gamma = gamma
        self.margin = margin
        self.tau = tau

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """scale * S: their softmax is this project's reading of SoftTriple's probabilities."""
        # Samples last: softmax and sum over the few proxies of a class then run along contiguous memory.
        query = F.normalize(scores.flatten(1), dim=1).t()
        if mask is None:
            similarity = F.normalize(as_rows(self.proxies), dim=1) @ query
        else:
            similarity = as_rows(self.proxies) @ query / lengths(as_rows(self.proxies), self.num_modalities, mask)
        similarity = similarity.view(self.num_classes, self.proxies_per_class, scores.shape[0])
        return self.scale * ((similarity / self.gamma).softmax(dim=1) * similarity).sum(dim=1).t()

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = self.compute_logits(scores, mask)
        kept = self.kept(target)
        true_class = F.one_hot(target if kept is None else target.where(kept, 0), self.num_classes).to(logits.dtype)
        loss = self.cross_entropy(logits - self.scale * self.margin * true_class, target)
        if self.tau == 0:
            return loss
        spread = self.tau * self._proxy_spread()
        return loss + (spread * kept if kept is not None and self.reduction == "none" else spread)

    def _proxy_spread(self) -> Tensor:
        """Half the distance between two unit proxies, averaged over the pairs of the same class."""
        unit = F.normalize(self.proxies.flatten(2), dim=2)
        first, second = torch.triu_indices(self.proxies_per_class, self.proxies_per_class, offset=1)
        cosine = (unit @ unit.mT)[:, first, second]
        return (2 + ROOT_EPSILON - (2 * cosine).clamp(max=2)).sqrt().mean() / 2
