"""Losses that work out their own gradient together with their value."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# From whether the gradient of each input is wanted to the loss and one gradient (or None) per input.
LossAndGradients = Callable[[tuple[bool, ...]], tuple[Tensor, Sequence[Tensor | None]]]


def with_own_gradient(compute: LossAndGradients, *inputs: Tensor) -> Tensor:
    """A scalar loss of `inputs` whose gradients are computed together with its value, without autograd.

    For losses whose intermediate tensors are much larger than their inputs: done block by block, value and gradient in
    one go, nothing large is stored between forward and backward. The gradient can't be differentiated again.
    """
    wanted = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs)
    with torch.no_grad():
        loss, gradients = compute(wanted)
    if not any(wanted):
        return loss
    attached: Tensor = _Attach.apply(loss, gradients, *inputs)
    return attached


def autograd_only() -> bool:
    """Whether a transform (torch.func, torch.compile) is at work that wants to see plain autograd operations."""
    transforms_active: bool = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() or transforms_active


class _Attach(torch.autograd.Function):
    """The loss on the way forward; the gradients at hand, times the incoming one, on the way back."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if gradient is None else gradient * incoming for gradient in ctx.saved_tensors)
        return (None, None, *scaled)
