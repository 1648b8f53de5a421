"""MMCosine (Xu et al. 2023, ICASSP, arXiv 2303.05338)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.fusion.base import Fusion, check_number


class MMCosine(Fusion):
    """Cross-entropy of summed cosines: z_k = scale sum_m cos(h_m, w_mk), with a head per modality that has no bias,
    over the modalities that a sample has.

    h_m are the modality's features (eq. 3-4). Given the class scores of a backbone, as everywhere in this package,
    these are the features, of width C; in a training loop of your own give features (B, M, num_features) in their
    place. For vectors and MLPs the head can be the backbone's own (`MLP(cosine_scale=...)`, method=mm_cosine). Its one
    parameter `weight` (C, M, features) is drawn as by a linear layer over the concatenation.

    The released code (github.com/GeWu-Lab/MMCosine_ICASSP23) evaluates by the plain linear head, with lengths and bias;
    here prediction and loss use the same cosines. Its further noise-contrastive term has weight 0 by default.

    Args:
        num_classes: C.
        num_modalities: M.
        scale: s, the inverse temperature of the cross-entropy; 10 in the original.
        num_features: width of h_m, the same for all modalities; null for C.
        ignore_index, reduction, weight, label_smoothing: see `Fusion`.
    """

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        scale: float = 10.0,
        num_features: int | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, num_modalities, ignore_index, reduction, weight, label_smoothing)
        check_number("scale", scale, above=0)
        if num_features is not None:
            check_number("num_features", num_features, at_least=1, whole=True)
        self.scale = scale
        self.num_features = num_features
        layer = nn.Linear(num_modalities * self.score_width, num_classes, bias=False)
        self.weight = nn.Parameter(layer.weight.detach().view(num_classes, num_modalities, self.score_width))

    @property
    def score_width(self) -> int:
        return self.num_features or self.num_classes

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = F.normalize(self.weight, dim=2).flatten(1)
        return self.scale * F.normalize(scores, dim=2).flatten(1) @ rows.t()
