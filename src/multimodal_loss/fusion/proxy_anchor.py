"""ProxyAnchor (Kim et al. 2020, CVPR, arXiv 2003.13911) on the concatenated modality scores."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.fusion.base import check_number
from multimodal_loss.fusion.proxies import ProxyFusion, lengths


class ProxyAnchor(ProxyFusion):
    """One signed proxy per class as an anchor that the whole batch pulls and pushes (eq. 4).

    With x the concatenation of the modality scores (M * C numbers) and cos = cos(x, p_c):
    loss = mean over classes present in the batch of log(1 + sum over their samples of exp(-alpha (cos - margin)))
    + mean over all classes of log(1 + sum over all other samples of exp(alpha (cos + margin))).

    Of a sample that lacks modalities x is the concatenation of the others, and p_c that part of the proxy.

    The sums are of a whole batch, inside logarithms: this is no mean over samples, has no `reduction`, and processes
    that average the gradients of their parts of a batch do not get those of the batch.

    Defaults are those of the original and of pytorch-metric-learning: alpha 32, margin 0.1. The original's proxies
    learn 100 times as fast as its network: that is `proxy_lr_multiplier`, 1 by default.

    Args:
        alpha: inverse temperature.
        margin: delta.
        proxy_lr_multiplier: the proxies' learning rate is this times the backbone's (see `parameter_groups`).
        ignore_index: samples with this target leave the loss as if they were not in the batch.

    Raises:
        ValueError: alpha or proxy_lr_multiplier not above 0, a margin that is no number, or sizes that are no
            whole numbers of at least 1.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        alpha: float = 32.0,
        margin: float = 0.1,
        proxy_lr_multiplier: float = 1.0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, num_modalities, proxy_lr_multiplier, ignore_index)
        check_number("alpha", alpha, above=0)
        check_number("margin", margin)
        self.alpha = alpha
        self.margin = margin
        drawn = torch.empty(num_classes, num_modalities * num_classes)
        nn.init.kaiming_normal_(drawn, mode="fan_out")
        self.proxies = nn.Parameter(drawn.view(num_classes, 1, num_modalities, num_classes))

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """alpha * cos: their softmax is this project's reading of ProxyAnchor's probabilities."""
        return self.alpha * self._cosine(scores, mask)

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        cosine = self._cosine(scores, mask)
        kept = self.kept(target)
        positive = F.one_hot(target if kept is None else target.where(kept, 0), self.num_classes).bool()
        negative = ~positive
        if kept is not None:
            positive, negative = positive & kept[:, None], negative & kept[:, None]
        pull = self._log_one_plus_sum(-self.alpha * (cosine - self.margin), positive)
        push = self._log_one_plus_sum(self.alpha * (cosine + self.margin), negative)
        present = positive.any(dim=0).sum().clamp(min=1)
        return pull.sum() / present + push.mean()

    def _cosine(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            proxies = self.proxies.flatten(1)
            query = F.normalize(scores.flatten(1), dim=1)
            return query @ proxies.t() / lengths(proxies, self.num_modalities, mask).t()
        return F.normalize(scores.flatten(1), dim=1) @ F.normalize(self.proxies.flatten(1), dim=1).t()

    @staticmethod
    def _log_one_plus_sum(exponent: Tensor, kept: Tensor) -> Tensor:
        """log(1 + the sum over the batch of exp(exponent) where kept): (B, C) to (C,), 0 where nothing is kept."""
        one = exponent.new_zeros(1, exponent.shape[1])
        return torch.cat([exponent.masked_fill(~kept, -torch.inf), one]).logsumexp(dim=0)
