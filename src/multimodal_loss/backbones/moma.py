"""MOMA: modules of features that attend across modalities (the backbone of Tables 5 and 6).

Source: the authors' MOMA (multi-task attention learning for multi-omics data), from its formulas.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_loss.backbones.parameters import ModalityParameters, of_modules
from multimodal_loss.errors import UserError

NARROWEST = 16  # width of the last hidden layer of a head
EPSILON = 1e-12  # a module's vector shorter than this counts as zero; the original divides by its length unguarded
CPU_BLOCK = 2**19  # pairs of modules that attend at a time: their weights, 2 MB, stay in the cache


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
        vectors = [self._unit_vectors(x, m) for m, x in enumerate(inputs)]
        values: list[list[Tensor]] = [[] for _ in vectors]
        if len(vectors) == 1:
            values[0].append(attend(vectors[0], vectors[0])[0])
        for first, second in itertools.combinations(range(len(vectors)), 2):
            of_first, of_second = attend(vectors[first], vectors[second])
            values[first].append(of_first)
            values[second].append(of_second)
        dtype = next(self.heads.parameters()).dtype
        attended = [torch.stack(of_one).mean(dim=0).flatten(1).to(dtype) for of_one in values]
        return torch.stack([head(value) for head, value in zip(self.heads, attended, strict=True)], dim=1)

    def modality_parameters(self) -> ModalityParameters:
        """A modality's coordinates and its head. Its coordinates also weigh the others' values, so that the gradients
        of the others' scores reach them, too: they count as its own all the same.
        """
        return of_modules(zip(self.coordinates, self.heads, strict=True))

    def _unit_vectors(self, features: Tensor, modality: int) -> Tensor:
        """The modules' vectors (B, 2, modules), of length 1, in float32 at least."""
        coordinates: Tensor = self.coordinates[modality](features.flatten(1)).unflatten(1, (2, -1))
        if coordinates.dtype in (torch.float16, torch.bfloat16):
            coordinates = coordinates.float()
        x, y = coordinates.unbind(dim=1)
        square = x * x + y * y  # torch.linalg.vector_norm over two numbers takes 50 times as long on a CPU
        inverse = square.clamp(min=EPSILON**2).rsqrt().masked_fill(square < EPSILON**2, 0)
        return coordinates * inverse.unsqueeze(1)


def attend(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """What two modalities get from their attention to each other.

    Args:
        first: unit vectors (B, 2, I); or zero vectors, whose cosine with any other is 0.
        second: the same, (B, 2, J).

    Returns:
        The values of `first` that the queries `second` weigh (B, 2, J), and the values of `second` that the queries
        `first` weigh (B, 2, I).
    """
    size = max(CPU_BLOCK // (first.shape[2] * second.shape[2]), 1) if first.device.type == "cpu" else max(len(first), 1)
    with torch.autocast(first.device.type, enabled=False):
        blocks = [_Attention.apply(*block) for block in zip(first.split(size), second.split(size), strict=True)]
    return torch.cat([of_first for of_first, _ in blocks]), torch.cat([of_second for _, of_second in blocks])


class _Attention(torch.autograd.Function):
    """Both directions share exp(cosine), all that is kept over pairs; a cosine needs no maximum subtracted.

    Written out because autograd takes twice the time: it walks through memory once for each direction and step.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        weights = torch.bmm(first.mT, second).exp_()
        sums = weights.sum(dim=1, keepdim=True), weights.sum(dim=2).unsqueeze(1)
        values = torch.bmm(first, weights).div_(sums[0]), torch.bmm(second, weights.mT).div_(sums[1])
        ctx.save_for_backward(first, second, weights, *sums, *values)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_first: Tensor | None, of_second: Tensor | None) -> tuple[Tensor, Tensor]:
        first, second, weights, first_sums, second_sums, first_values, second_values = ctx.saved_tensors
        # The gradient with respect to the cosine of modules i and j, through a softmax of each direction, is
        # exp(cosine) (<first_i - value_j, a_j> + <second_j - value_i, b_i>): one product of all four terms.
        a = torch.zeros_like(first_values) if of_first is None else of_first / first_sums
        rows = [first, torch.ones_like(first[:, :1])]
        columns = [a, (a * first_values).sum(dim=1, keepdim=True).neg_()]
        to_second = torch.zeros_like(second)
        if of_second is not None:  # None for a single modality
            b = of_second / second_sums
            rows += [b, (b * second_values).sum(dim=1, keepdim=True).neg_()]
            columns += [second, torch.ones_like(second[:, :1])]
            to_second.baddbmm_(b, weights)
        of_cosine = torch.bmm(torch.cat(rows, dim=1).mT, torch.cat(columns, dim=1)).mul_(weights)
        return torch.baddbmm(torch.bmm(a, weights.mT), second, of_cosine.mT), to_second.baddbmm_(first, of_cosine)


def _head(modules: int, num_classes: int) -> nn.Sequential:
    widths = [2 * modules, modules]
    while widths[-1] // 2 >= NARROWEST:
        widths.append(widths[-1] // 2)
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
