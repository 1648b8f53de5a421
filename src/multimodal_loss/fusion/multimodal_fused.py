"""Value and gradient of the default MultiModal loss in one pass over blocks of samples.

Written out by hand because the similarities of all samples to all proxies, (B, C, K), dwarf everything else: autograd
stores several tensors of that size and walks through memory a dozen times. Here a block of samples fits into the cache,
each product is done once, and nothing of that size outlives its block. The formulas are those of
`MultiModalLoss.compute_logits`, which the tests hold this file against.

Notation: x scores (D), u the unit query, W the unit proxies (C * K, D), s = W u, e = exp(s / gamma),
p = e / sum_c e (eq. 6), a = e / sum_ck e (eq. 4), r = W^T a (eq. 5), g = dloss / dlogits (C).
Then, with h = W (x g) and eta = <r, x g>, where x g multiplies every modality's scores by g:
  dloss / ds = g p s / gamma + p (g - sum_c g p s / gamma) + a (h - eta) / gamma,
of which the last two terms are computed as e times one sum.
The code works with t = s / (gamma log 2), since exp2 is three times as fast as exp on a CPU: e = exp2(t).
Inside a block the samples are the last axis, so that every sum and broadcast runs along contiguous memory.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from multimodal_loss.fusion.proxies import EPSILON
from multimodal_loss.fusion.scratch import Scratch

LOG_2 = math.log(2)
MAX_INVERSE_GAMMA = 40.0  # |s| / gamma stays below it, so that the exponential needs no shift in float32
CPU_BLOCK = 2**18  # similarities in a block, per thread: three float32 arrays of this size, 3 MB, stay near the core
ACCELERATOR_BLOCK = 2**22  # few launches; three float32 arrays, 48 MB
MIN_ROWS = 256  # with fewer samples in a block, reading W for each costs more than the cache saves


def losses_and_gradients(
    scores: Tensor, proxies: Tensor, target: Tensor, share: Tensor, gamma: float, wanted: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """The samples' losses (B,), and the gradients of their sum, each over its `share`, with respect to scores and
    proxies where `wanted` says so.

    Args:
        scores: (B, M, C), float32 or float64.
        proxies: (C, K, M, C), raw values.
        target: (B,), class indices.
        share: () or (B,), what each sample's gradient is divided by.
        gamma: temperature, at least 1 / MAX_INVERSE_GAMMA.
        wanted: for scores and for proxies.
    """
    batch = len(scores)
    flat = scores.flatten(1)
    raw = proxies.reshape(-1, flat.shape[1])
    unit = raw.clamp(min=0)
    norm = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    unit.div_(norm.clamp(min=EPSILON))

    losses = flat.new_empty(batch)
    flat_grad = torch.empty_like(flat) if wanted[0] else None
    unit_grad = flat.new_zeros(unit.t().shape) if wanted[1] else None
    rows = _rows_per_block(batch, len(unit), flat.device)
    block = _Block(proxies.shape, rows, Scratch(flat, _Block.elements(proxies.shape, rows)))
    for start in range(0, batch, rows):
        here = slice(start, start + rows)
        if batch - start < rows:
            block = _Block(proxies.shape, batch - start, block.scratch)
        block.logits(flat[here], unit, gamma)
        block.cross_entropy(target[here], losses[here])
        if any(wanted):
            block.backward(
                unit,
                gamma,
                share[here] if share.ndim else share,
                None if flat_grad is None else flat_grad[here],
                unit_grad,
            )

    scores_grad = None if flat_grad is None else flat_grad.view(scores.shape)
    proxies_grad = None
    if unit_grad is not None:
        proxies_grad = _through_rectified_norm(unit_grad, unit, norm, raw).view(proxies.shape)
    return losses, (scores_grad, proxies_grad)


def losses_and_gradients_of_kinds(
    scores: Tensor,
    proxies: Tensor,
    target: Tensor,
    share: Tensor,
    gamma: float,
    wanted: tuple[bool, ...],
    kinds: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """The same where samples lack modalities: each of `patterns` by the parts of the proxies that are its own."""
    losses = scores.new_empty(len(scores))
    scores_grad, proxies_grad = torch.zeros_like(scores), torch.zeros_like(proxies)
    for rows, here in kinds:
        losses[rows], (of_scores, of_proxies) = losses_and_gradients(
            scores[rows][:, here], proxies[:, :, here], target[rows], share.expand(len(scores))[rows], gamma, wanted
        )
        if of_scores is not None:
            scores_grad[rows[:, None], here] = of_scores
        if of_proxies is not None:
            proxies_grad.index_add_(2, here, of_proxies)
    return losses, (scores_grad if wanted[0] else None, proxies_grad if wanted[1] else None)


class _Block:
    """The arrays of one block of b samples, and what is done with them: logits, cross-entropy, backward, in that order.

    `t`, `e` and `h` have shape (C, K, b), `x`, `u`, `r`, `xg` and `grad` (M, C, b); names with `_rows` are the same
    memory with all but the samples flattened.
    """

    def __init__(self, shape: torch.Size, size: int, scratch: Scratch) -> None:
        classes, per_class, modalities, _ = shape
        self.scratch = scratch
        scratch.restart()
        self.t, self.e, self.h = (scratch.take(classes, per_class, size) for _ in range(3))
        self.x, self.u, self.r, self.xg, self.grad, self.product = (
            scratch.take(modalities, classes, size) for _ in range(6)
        )
        self.inverse_sum_c, self.tau = (scratch.take(per_class, size) for _ in range(2))
        self.z, self.attended = (scratch.take(classes, size) for _ in range(2))
        self.t_rows, self.e_rows, self.h_rows = (array.view(-1, size) for array in (self.t, self.e, self.h))
        self.x_rows, self.u_rows, self.r_rows, self.xg_rows, self.grad_rows = (
            array.view(-1, size) for array in (self.x, self.u, self.r, self.xg, self.grad)
        )

    @staticmethod
    def elements(shape: torch.Size, size: int) -> int:
        """How many numbers the arrays of a block hold."""
        classes, per_class, modalities, _ = shape
        return (3 * classes * per_class + 6 * modalities * classes + 2 * per_class + 2 * classes) * size

    def logits(self, rows: Tensor, unit: Tensor, gamma: float) -> None:
        """From the scores (b, D) to the logits `z` (C, b)."""
        self.x_rows.copy_(rows.t())
        self.norm = torch.mul(self.x_rows, self.x_rows, out=self.u_rows).sum(dim=0).sqrt_()
        self.safe_norm = self.norm.clamp(min=EPSILON)
        torch.div(self.x_rows, self.safe_norm, out=self.u_rows)
        torch.addmm(self.t_rows, unit, self.u_rows, beta=0, alpha=1 / (gamma * LOG_2), out=self.t_rows)
        torch.exp2(self.t, out=self.e)
        torch.sum(self.e, dim=0, out=self.inverse_sum_c)
        self.inverse_sum = self.inverse_sum_c.sum(dim=0).reciprocal_()
        self.inverse_sum_c.reciprocal_()
        self.t.mul_(self.e).mul_(self.inverse_sum_c)  # t holds p t from here on
        torch.sum(self.t, dim=1, out=self.z)
        torch.mm(unit.t(), self.e_rows, out=self.r_rows).mul_(self.inverse_sum)
        torch.sum(torch.mul(self.x, self.r, out=self.product), dim=0, out=self.attended)
        self.z.mul_(gamma * LOG_2).add_(self.attended).add_(self.x.sum(dim=0))

    def cross_entropy(self, target: Tensor, losses: Tensor) -> None:
        """From the logits to the `losses` (b,); leaves their gradient with respect to the logits in `g` (C, b)."""
        index = target[None]
        log_p = self.z.log_softmax(dim=0)
        torch.neg(log_p.gather(0, index)[0], out=losses)
        self.g = log_p.exp_().scatter_add_(0, index, log_p.new_full((), -1.0).expand_as(index))

    def backward(
        self, unit: Tensor, gamma: float, share: Tensor, rows_grad: Tensor | None, unit_grad: Tensor | None
    ) -> None:
        """Fills `rows_grad` (b, D) and adds to `unit_grad` (D, C * K), each sample's gradient over `share` (b,)."""
        t, e, h, r = self.t, self.e, self.h, self.r
        g = self.g.div_(share)
        torch.mul(self.x, g, out=self.xg)
        self.xg.mul_(self.inverse_sum)
        eta = self.attended.mul_(g).sum(dim=0).mul_(self.inverse_sum)
        t.mul_((g * LOG_2)[:, None])  # t holds g p s / gamma from here on
        torch.sum(t, dim=0, out=self.tau)
        self.tau.mul_(self.inverse_sum_c).add_(eta, alpha=1 / gamma)
        torch.addcmul(self.tau.neg_(), g[:, None], self.inverse_sum_c, out=h)
        torch.addmm(self.h_rows, unit, self.xg_rows, alpha=1 / gamma, out=self.h_rows)
        t.addcmul_(e, h)  # t holds dloss / ds from here on
        if unit_grad is not None:
            unit_grad.addmm_(self.u_rows, self.t_rows.t()).addmm_(self.xg_rows, self.e_rows.t())
        if rows_grad is not None:
            grad = self.grad
            torch.mm(unit.t(), self.t_rows, out=self.grad_rows)
            along = torch.mul(self.u, grad, out=self.product).sum(dim=(0, 1)).mul_(self.norm >= EPSILON)
            grad.addcmul_(self.u, along, value=-1).div_(self.safe_norm)
            grad.add_(g).addcmul_(r, g)
            rows_grad.copy_(self.grad_rows.t())


def _through_rectified_norm(unit_grad: Tensor, unit: Tensor, norm: Tensor, raw: Tensor) -> Tensor:
    """From the gradient (D, C * K) of the unit proxies, rectified / norm, to that of the raw proxies (C * K, D).

    Overwrites `unit`: with many classes a further array of its size is worth saving.
    """
    grad = unit_grad.t().contiguous()
    along = torch.bmm(grad[:, None], unit[:, :, None])[:, 0] * (norm >= EPSILON)
    grad.addcmul_(unit, along, value=-1).div_(norm.clamp(min=EPSILON))
    passes = torch.ge(raw, 0, out=unit)  # as numbers: several times as fast as a boolean mask
    return grad.mul_(passes)


def _rows_per_block(batch: int, proxies: int, device: torch.device) -> int:
    """Samples per block: equal shares, rounded up to whole cache lines (12 % faster products)."""
    similarities = CPU_BLOCK * torch.get_num_threads() if device.type == "cpu" else ACCELERATOR_BLOCK
    blocks = math.ceil(batch / max(similarities // proxies, MIN_ROWS)) or 1
    return math.ceil(batch / blocks / 16) * 16 or 16
