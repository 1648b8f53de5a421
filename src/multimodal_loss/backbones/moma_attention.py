"""Softmax attention between unit vectors in the plane, in time and memory linear in their number.

For the angles a and b, exp(cos(a - b)) = sum over whole k of I_k(1) e^{ik(a - b)} (Jacobi and Anger), and the terms
fall off so fast that |k| <= 8 reaches the precision of float32. So what a query at b gets from all values at a needs
only the moments m_k = sum_a e^{ika}, and no tensor over pairs. scripts/benchmark_moma.py compares it with the softmax
written out.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-12  # length below which a module's vector counts as zero; the original divides by it unguarded

# I_k(1), k = 0..14: modified Bessel functions of the first kind. The tail beyond is below 1e-16.
BESSEL = (
    *(1.2660658777520084, 0.5651591039924851, 0.13574766976703831, 0.022168424924331902, 0.0027371202210468667),
    *(0.00027146315595697187, 2.2488661477147573e-05, 1.599218231200995e-06, 9.960624033363988e-08),
    *(5.518385862758672e-09, 2.7529480398368736e-10, 1.248978308492491e-11, 5.195611533928497e-13),
    *(1.9956316782072008e-14, 7.11879005412828e-16),
)
SINGLE_PRECISION_TERMS = 9  # one more than are summed: the next moment is needed too


class Harmonics(NamedTuple):
    """Of unit vectors (B, I) in the plane at the angles a, k = 1..K; zero vectors, which have no angle, count as zeros.

    `terms` (B, 2, K - 1, I): cos ka, then sin ka, without the last k, which only the moments need.
    `moments` (2, K, B): their sums over the vectors.
    """

    terms: Tensor
    moments: Tensor


def harmonics(x: Tensor, y: Tensor) -> Harmonics:
    """Of the vectors (x, y), each (B, I), of any length."""
    return Harmonics(*_Harmonics.apply(x, y, len(BESSEL) if x.dtype == torch.float64 else SINGLE_PRECISION_TERMS))


def attend(values: Harmonics, queries: Harmonics) -> Tensor:
    """sum_i softmax_i(cos(a_i - b_j)) (cos a_i, sin a_i) from the harmonics of I values at a and J queries at b.

    Returns (B, 2 J), all x first. If all vectors of a sample's values or queries are zero, this is the softmax with
    cosines of 0; the original is undefined there.
    """
    # Here the samples are the last axis, so that the many small operations run along contiguous memory.
    moments = values.moments
    bessel = _bessel(moments.shape[1], moments.dtype, moments.device)
    zeroth = moments.new_zeros(2, 1, moments.shape[2])
    zeroth[0].fill_(values.terms.shape[3])
    moments = torch.cat([zeroth, moments], dim=1)
    before, at, after = moments[:, :-2], moments[:, 1:-1], moments[:, 2:]
    difference = after - before
    turned = torch.stack([difference[1], -difference[0]])
    # What cos kb and sin kb are multiplied by in the two numerators and the denominator: (B, 3, 2 (K - 1)).
    factors = (torch.stack([after + before, turned, 2 * at]) * bessel[1:]).flatten(1, 2).permute(2, 0, 1).contiguous()
    constants = (bessel[0] * torch.cat([moments[:, 1], moments[:1, 0]])).t().unsqueeze(2)
    sums = torch.baddbmm(constants, factors, queries.terms.flatten(1, 2))
    return (sums[:, :2] / sums[:, 2:]).flatten(1)


@lru_cache
def _bessel(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count, 1). Kept: to make it in every step is a copy to the device, which a GPU waits for."""
    with torch.inference_mode(False):  # what is kept must serve training, too
        return torch.tensor(BESSEL[:count], dtype=dtype, device=device).unsqueeze(1)


class _Harmonics(torch.autograd.Function):
    """Powers of (x + iy) / |x + iy| by multiplication; backward through the angle alone.

    The powers double in number with each product: one after another, each would write narrow strips of a tensor that is
    larger than the cache (1.3 times as long in all at 64 modules).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, order: int) -> tuple[Tensor, Tensor]:
        length = torch.hypot(x, y).clamp(min=EPSILON)
        terms = x.new_empty(len(x), 2, order - 1, x.shape[1])
        terms[:, 0, 0], terms[:, 1, 0] = x / length, y / length
        done = 1
        while done < order - 1:
            new = slice(done, min(2 * done, order - 1))
            _multiply(terms[:, :, : new.stop - done], terms[:, :, done - 1 : done], out=terms[:, :, new])
            done = new.stop
        last = _multiply(terms[:, :, -1], terms[:, :, 0], out=torch.empty_like(terms[:, :, 0]))
        ctx.save_for_backward(terms, last, length)
        moments = torch.cat([terms.sum(dim=3), last.sum(dim=2, keepdim=True)], dim=2)
        return terms, moments.permute(1, 2, 0).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_terms: Tensor, of_moments: Tensor) -> tuple[Tensor, Tensor, None]:
        # d cos ka / da = -k sin ka and d sin ka / da = k cos ka.
        terms, last, length = ctx.saved_tensors
        k = torch.arange(1, of_moments.shape[1] + 1, dtype=terms.dtype, device=terms.device)
        turned = (terms[:, 0] * of_terms[:, 1]).addcmul_(terms[:, 1], of_terms[:, 0], value=-1)
        of_angle = torch.bmm(k[:-1].expand(len(terms), 1, -1), turned)
        of_moments = (torch.stack([of_moments[1], -of_moments[0]]) * k[:, None]).permute(2, 0, 1).contiguous()
        of_angle = of_angle.baddbmm_(of_moments[:, :, :-1].flatten(1)[:, None], terms.flatten(1, 2))[:, 0]
        of_angle += (of_moments[:, :, -1:] * last).sum(dim=1)
        of_angle /= length
        return -terms[:, 1, 0] * of_angle, terms[:, 0, 0] * of_angle, None


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """The product of complex numbers whose real and imaginary parts lie along dimension 1."""
    torch.mul(a[:, 0], b[:, 0], out=out[:, 0]).addcmul_(a[:, 1], b[:, 1], value=-1)
    torch.mul(a[:, 0], b[:, 1], out=out[:, 1]).addcmul_(a[:, 1], b[:, 0])
    return out
