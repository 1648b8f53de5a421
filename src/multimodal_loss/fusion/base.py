"""What every fusion shares: the interface, the checks of its input, and the default of its probabilities."""

import math
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fusion(nn.Module):
    """Turns one row of class scores per modality into a loss and fused class logits.

    A new fusion overrides `compute_logits`, and `compute_loss` where its loss is not the cross-entropy of its logits.
    It reads the scores as they are given: whether they are probabilities or logits is its caller's choice
    (`fusion.input` in the config). Under autocast it still computes in float32: it costs next to nothing beside a
    backbone, and bfloat16 would blur similarities that a temperature of 0.1 then spreads tenfold.

    Args:
        num_classes: C, at least 1.
        num_modalities: M, at least 1.

    Raises:
        ValueError: a size that is no whole number of at least 1; in the calls, scores or targets of another shape or
            type than said below.
    """

    def __init__(self, num_classes: int, num_modalities: int) -> None:
        super().__init__()
        check_number("num_classes", num_classes, at_least=1, whole=True)
        check_number("num_modalities", num_modalities, at_least=1, whole=True)
        self.num_classes = num_classes
        self.num_modalities = num_modalities

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """The training loss: a scalar, from scores (B, M, C) and class indices (B,) of type int64."""
        self._check_scores(scores)
        if target.shape != scores.shape[:1] or target.dtype != torch.int64:
            raise ValueError(
                f"target must be {scores.shape[0]} class indices of type int64, "
                f"got shape {tuple(target.shape)} and type {target.dtype}"
            )
        with _full_precision(scores):
            return self.compute_loss(_at_least_float32(scores), target)

    def logits(self, scores: Tensor) -> Tensor:
        """Fused class logits (B, C) from scores (B, M, C); the prediction is their argmax."""
        self._check_scores(scores)
        with _full_precision(scores):
            return self.compute_logits(_at_least_float32(scores))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Fused class probabilities (B, C): the softmax of the logits."""
        return self.logits(scores).softmax(dim=-1)

    def compute_logits(self, scores: Tensor) -> Tensor:
        """The logits of scores already checked."""
        raise NotImplementedError

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss of scores and targets already checked: cross-entropy of the logits unless overridden."""
        return F.cross_entropy(self.compute_logits(scores), target)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, num_modalities={self.num_modalities}"

    def _check_scores(self, scores: Tensor) -> None:
        expected = (self.num_modalities, self.num_classes)
        if scores.dim() != 3 or tuple(scores.shape[1:]) != expected:
            raise ValueError(
                f"{type(self).__name__} expects scores of shape (batch, {expected[0]}, {expected[1]}), "
                f"got {tuple(scores.shape)}"
            )
        if not scores.is_floating_point():
            raise ValueError(f"{type(self).__name__} expects floating-point scores, got {scores.dtype}")


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError in one line when an option has a value that it does not know."""
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def check_number(
    option: str, value: object, at_least: float | None = None, above: float | None = None, whole: bool = False
) -> None:
    """Raise a ValueError in one line unless an option is a finite number, within the bound and whole where asked."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    right_type = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    number = float(value) if right_type else math.nan  # type: ignore[arg-type]
    too_low = (at_least is not None and number < at_least) or (above is not None and number <= above)
    if not math.isfinite(number) or too_low:
        bound = f" of at least {at_least}" if at_least is not None else f" above {above}" if above is not None else ""
        raise ValueError(f"{option} must be a {'whole number' if whole else 'number'}{bound}, got {value!r}")


def _full_precision(scores: Tensor) -> AbstractContextManager[None]:
    """Switches autocast off where it is on."""
    device = scores.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _at_least_float32(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
