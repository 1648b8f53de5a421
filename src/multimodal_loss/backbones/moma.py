"""MOMA: modules of features that attend across modalities (the backbone of Tables 5 and 6).

Source: the authors' MOMA (multi-task attention learning for multi-omics data), from its formulas.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multimodal_loss.backbones.moma_attention import Harmonics, attend, harmonics
from multimodal_loss.errors import UserError

NARROWEST = 16  # width of the last hidden layer of a head


class MOMA(nn.Module):
    """Scores (B, M, C) from M vectors.

    A modality's features are mapped to `modules` vectors in the plane, each scaled to length 1. With e_ij the cosine
    between module i of modality g and module j of the other one, the modality becomes

        value_j = sum_i softmax_i(e_ij) v_i^g

    (its own vectors; the other one only weighs them), and a head of ReLU layers turns these 2 x modules numbers, all x
    before all y, into class scores.

    Beyond the original's two modalities: with more, a modality's values are averaged over the others that query it; one
    alone queries itself.

    Args:
        feature_shapes: shape of one sample of each modality; any shape is flattened, widths may differ.
        num_classes: C.
        modules: modules per modality, a multiple of 16. A head's hidden widths are `modules`, halved down to 16.
    """

    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int, modules: int = 32) -> None:
        super().__init__()
        if isinstance(modules, bool) or not isinstance(modules, int) or modules < NARROWEST:
            raise UserError(f"backbone.modules={modules}: must be a whole number of at least {NARROWEST}")
        widths = [torch.Size(shape).numel() for shape in feature_shapes]
        self.modules_per_modality = modules
        self.coordinates = nn.ModuleList(nn.Linear(width, 2 * modules, bias=False) for width in widths)
        self.heads = nn.ModuleList(_head(modules, num_classes) for _ in widths)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        circles = [self._harmonics(x, m) for m, x in enumerate(inputs)]
        attended = []
        for m, own in enumerate(circles):
            queries = [other for n, other in enumerate(circles) if n != m] or [own]
            attended.append(torch.stack([attend(own, query) for query in queries]).mean(dim=0))
        return torch.stack([head(value) for head, value in zip(self.heads, attended, strict=True)], dim=1)

    def _harmonics(self, x: Tensor, modality: int) -> Harmonics:
        coordinates = self.coordinates[modality](x.flatten(1))
        return harmonics(*coordinates.split(self.modules_per_modality, dim=1))


def _head(modules: int, num_classes: int) -> nn.Sequential:
    hidden = [modules]
    while hidden[-1] // 2 >= NARROWEST:
        hidden.append(hidden[-1] // 2)
    layers: list[nn.Module] = []
    for width, narrower in itertools.pairwise([2 * modules, *hidden]):
        layers += [nn.Linear(width, narrower), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], num_classes))
