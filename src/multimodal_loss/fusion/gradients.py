"""Losses that work out their own gradient together with their value."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# From whether the gradient of each input is wanted to the loss and one gradient (or None) per input.
LossAndGradients = Callable[[tuple[bool, ...]], tuple[Tensor, Sequence[Tensor | None]]]


def with_own_gradient(compute: LossAndGradients, plain: Callable[..., Tensor] | None, *inputs: Tensor) -> Tensor:
    """A loss of `inputs` whose gradients are computed together with its value, without autograd: a scalar, or one loss
    for each sample (B,) where the gradients are apart, too: (B, ...).

    For losses whose intermediate tensors are much larger than their inputs: done block by block, value and gradient in
    one go, nothing large is stored between forward and backward.

    Where the backward pass is itself to be differentiated (`create_graph=True`), the gradients are those of
    `plain(*inputs)`, the same loss in operations that autograd knows. Without a `plain` way, differentiating a second
    time raises a RuntimeError.
    """
    wanted = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs)
    with torch.no_grad():
        loss, gradients = compute(wanted)
    if not any(wanted):
        return loss
    attached: Tensor = _Attach.apply(loss, gradients, plain, *inputs)
    return attached


def autograd_only() -> bool:
    """Whether a transform (torch.func, torch.compile) is at work that wants to see plain autograd operations."""
    transforms_active: bool = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() or transforms_active


def without_autocast(like: Tensor) -> AbstractContextManager[None]:
    """Switches autocast off where it is on for the tensor's device."""
    device = like.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class _Attach(torch.autograd.Function):
    """The loss on the way forward; the gradients at hand, times the incoming one, on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: Tensor,
        gradients: Sequence[Tensor | None],
        plain: Callable[..., Tensor] | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.plain = plain
        ctx.save_for_backward(*gradients, *inputs)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: torch.utils.checkpoint unpacks no tensor twice
        gradients, inputs = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        if torch.is_grad_enabled() and ctx.plain is not None:
            with without_autocast(incoming):
                loss = ctx.plain(*inputs)
                wanted = [tensor for tensor in inputs if tensor.requires_grad]
                found = iter(torch.autograd.grad(loss, wanted, incoming, create_graph=True))
            return None, None, None, *(next(found) if tensor.requires_grad else None for tensor in inputs)
        by_sample = incoming.dim() == 1
        scaled = [
            None if g is None else g * (incoming.view(-1, *[1] * (g.dim() - 1)) if by_sample else incoming)
            for g in gradients
        ]
        if torch.is_grad_enabled():
            scaled = [None if gradient is None else _Final.apply(gradient, *inputs) for gradient in scaled]
        return None, None, None, *scaled


class _Final(torch.autograd.Function):
    """A gradient that says no where it is differentiated, so that no second derivative goes missing in silence."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> None:
        raise RuntimeError(
            "this loss has no second derivative (Mulmix over more than 6 modalities): take its gradient without "
            "create_graph=True"
        )
