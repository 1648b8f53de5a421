"""Mulmix over all subsets of many modalities, exactly, where a candidate's logits are the sum of its members'.

With M = 19 there are 524,287 candidates. What makes them affordable: a subset is a part i of the first modalities and a
part j of the others, so with the tables E_i = exp(sum over part i) and F_j = exp(sum over part j), about (2^(M/2), C)
each, the softmax denominators of all candidates are one matrix product, z_ij = <E_i, F_j>, and so is what the
candidates send back to the tables.

The factor q_ij = exp(beta (G - a_ij) / (N - 1)), with a = log(1 - p) and G its sum over all N candidates, seems to need
a pass of its own for G. But it is exp(beta G / (N - 1)), one number per sample, times w_ij = exp(-beta a_ij / (N - 1)),
so that value and gradient come out of a single pass over blocks of candidates that stay in the cache.

The limit: E and F, of which the best class is 1, end at exp(-690), in float32 at exp(-69). So all is exact to rounding
for candidates with a class that both parts together put no further than 650 (float32: 50) below the best class of each.
Where parts contradict each other more, log z is too large: it is -690 at least.
"""

import math

import torch
from torch import Tensor

from multimodal_loss.fusion.scratch import Scratch

MIN_DOUBT = 1e-6  # 1 - p is held above this before its logarithm
CPU_BLOCK = 2**16  # candidates times samples in a block, per thread: four float64 arrays of this size, 2 MB
ACCELERATOR_BLOCK = 2**23


def subset_losses(scores: Tensor, beta: float) -> Tensor:
    """L^y, the sum over all non-empty subsets, for every class y: (B, C) from scores (B, M, C). Without gradient.

    Costs a logarithm and an exponential per candidate, sample and class: for M = 19 and C = 18 some 10 s per 100
    samples on one CPU thread.
    """
    losses = torch.empty_like(scores[:, 0])
    with torch.no_grad():
        for part in _sample_parts(scores):
            tables = _Tables(scores[part])
            classes = torch.arange(scores.shape[2], device=scores.device)[:, None].expand(-1, len(scores[part]))
            losses[part] = _sum_over_subsets(tables, classes, beta)[0].t()
    return losses


def subset_losses_and_gradient(
    scores: Tensor, target: Tensor, share: Tensor, beta: float, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Each sample's L^target (B,), the sum over all non-empty subsets; its gradient over the sample's `share`, () or
    (B,).
    """
    losses = scores.new_empty(len(scores))
    gradient = torch.empty_like(scores)
    for part in _sample_parts(scores):
        tables = _Tables(scores[part])
        loss, table_gradients = _sum_over_subsets(tables, target[None, part], beta, with_gradient=wanted)
        losses[part] = loss[0]
        if wanted:
            gradient[part] = tables.to_scores(*table_gradients)
    return losses, gradient.div_(share.view(-1, 1, 1)) if wanted else None


class _Tables:
    """Sums of scores over all subsets of the first half of the modalities, and of the second: (B, C, 2^count) each.

    Every sum is shifted so that its best class is 0, which a softmax does not see.
    """

    def __init__(self, scores: Tensor) -> None:
        x = scores if scores.device.type == "mps" else scores.double()
        x = (x - x.amax(dim=2, keepdim=True)).mT
        half = x.shape[2] // 2
        self.first_members, self.second_members = (
            members_of_subsets(count, x.device).to(x.dtype) for count in (half, x.shape[2] - half)
        )
        self.first, self.second = x[:, :, :half] @ self.first_members.t(), x[:, :, half:] @ self.second_members.t()
        self.first -= self.first.amax(dim=1, keepdim=True)
        self.second -= self.second.amax(dim=1, keepdim=True)

    def to_scores(self, first: Tensor, second: Tensor) -> Tensor:
        """From gradients with respect to the tables to that of the scores."""
        return torch.cat([first @ self.first_members, second @ self.second_members], dim=2).mT


def _sum_over_subsets(
    tables: _Tables, classes: Tensor, beta: float, with_gradient: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """L^y for each row y (B,) of `classes`, and its gradients with respect to the tables (of use for a single row)."""
    first, second = tables.first, tables.second
    # z is at least the smallest entry here, so that 1/z, also summed over 1,024 candidates, stays finite.
    least = math.log(torch.finfo(first.dtype).tiny) + 18
    exp_first, exp_second = first.clamp(min=least).exp(), second.clamp(min=least).exp()
    first_y, second_y = (torch.stack([_of_class(table, y) for y in classes]) for table in (first, second))
    batch, _, rows = first.shape
    columns = second.shape[2]
    rate = beta / max(rows * columns - 2, 1)
    losses, doubt = (first.new_zeros(classes.shape) for _ in range(2))
    w_first, w_second = torch.zeros_like(first_y), torch.zeros_like(second_y)  # w summed over j, over i
    first_gradient, second_gradient = torch.zeros_like(first), torch.zeros_like(second)

    step = min(max(_block_size(first.device) // (batch * columns), 1), rows)
    scratch = Scratch(first, 4 * batch * step * columns)
    for start in range(0, rows, step):
        here = slice(start, start + step)
        exp_here = exp_first[:, :, here]
        scratch.restart()
        inverse_z, log_z, w, product = (scratch.take(batch, exp_here.shape[2], columns) for _ in range(4))
        torch.bmm(exp_here.mT, exp_second, out=inverse_z)
        torch.log(inverse_z, out=log_z)
        inverse_z.reciprocal_()
        for y in range(len(classes)):
            p = torch.mul(inverse_z, first_y[y, :, here, None].exp(), out=w).mul_(second_y[y, :, None].exp())
            w = p.clamp_(max=1 - MIN_DOUBT).neg_().log1p_()
            if start == 0:
                w[:, 0, 0] = 0  # the empty subset is no candidate
            doubt[y] += w.sum(dim=(1, 2))
            w.mul_(-rate).exp_()
            if start == 0:
                w[:, 0, 0] = 0
            w_first[y, :, here] = w.sum(dim=2)
            w_second[y] += w.sum(dim=1)
            losses[y] += torch.mul(w, log_z, out=product).sum(dim=(1, 2))
            if with_gradient:
                w.mul_(inverse_z)
                first_gradient[:, :, here] = exp_second @ w.mT
                second_gradient += exp_here @ w

    losses -= (w_first * first_y).sum(dim=2) + (w_second * second_y).sum(dim=2)
    factor = (rate * doubt).exp()
    if with_gradient:
        for gradient, exp_table, weight in (
            (first_gradient, exp_first, w_first[0]),
            (second_gradient, exp_second, w_second[0]),
        ):
            gradient.mul_(exp_table).scatter_add_(1, _index(classes[0], weight), -weight[:, None])
            gradient.mul_(factor[0, :, None, None])
    return losses * factor, (first_gradient, second_gradient)


def _of_class(table: Tensor, y: Tensor) -> Tensor:
    """Row y of a table (B, C, n), another one for each sample: (B, n)."""
    return table.gather(1, _index(y, table))[:, 0]


def _index(y: Tensor, like: Tensor) -> Tensor:
    """Class indices (B,) as an index (B, 1, n)."""
    return y[:, None, None].expand(-1, 1, like.shape[-1])


def members_of_subsets(modalities: int, device: torch.device | None = None) -> Tensor:
    """Which modalities each subset holds: (2^modalities, modalities) of 0 and 1, the empty subset first."""
    codes = torch.arange(2**modalities, device=device)
    return (codes[:, None] >> torch.arange(modalities, device=device)) & 1


def _sample_parts(scores: Tensor) -> list[slice]:
    """Slices of the batch: as many samples as fill a block with all their candidates, one where that is too many."""
    size = max(_block_size(scores.device) // 2 ** scores.shape[1], 1)
    return [slice(start, start + size) for start in range(0, len(scores), size)]


def _block_size(device: torch.device) -> int:
    return CPU_BLOCK * torch.get_num_threads() if device.type == "cpu" else ACCELERATOR_BLOCK
