"""What every fusion shares: the interface, the checks of its input, and the default of its probabilities."""

import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.fusion.gradients import autograd_only, without_autocast

HALF_PRECISION = (torch.float16, torch.bfloat16)

# For each modality its parameters, each with the slice of its first axis that is the modality's: slice(None) for all.
ModalityParameters = Sequence[Sequence[tuple[nn.Parameter, slice]]]


class NonFiniteScores(ValueError):
    """Scores that hold NaN or infinity, where looking costs nothing: on a CPU."""


class Fusion(nn.Module):
    """Turns one row of class scores per modality into a loss and fused class logits.

    A new fusion overrides `compute_logits`, and `compute_loss` where its loss is not the cross-entropy of its logits.
    It reads the scores as they are given: whether they are probabilities or logits is its caller's choice
    (`fusion_input` in the config).

    Beyond the loss a fusion may want to know where training stands. A training loop that serves them all is

        for epoch in range(1, epochs + 1):
            fusion.begin_epoch(epoch, num_samples)
            for inputs, target, index in batches:  # index: the samples' positions among the num_samples
                scores = backbone(inputs)
                loss = fusion(scores, target, index)
                optimizer.zero_grad()
                fusion.backward(loss, scores, target, modality_parameters)
                optimizer.step()

    where most need only the plain calls: each hook says what it is for.

    Precision: scores and parameters have the same one, float32 or float64; those of half precision, either or both,
    count as float32. So loss and logits of bfloat16 or float16 scores are float32, also under autocast: it costs next
    to nothing beside a backbone, and half precision would blur similarities that a temperature of 0.1 spreads tenfold.

    Args:
        num_classes: C, at least 1.
        num_modalities: M, at least 1.
        ignore_index: samples with this target leave the loss as if they were not in the batch.

    Raises:
        ValueError: a size that is no whole number of at least 1; in the calls, scores or targets of another shape or
            type than said below, and, on a CPU, targets out of range and scores that are not finite.
    """

    # Whether `compute_loss` takes `index` as its third argument.
    reads_index: ClassVar[bool] = False

    def __init__(self, num_classes: int, num_modalities: int, ignore_index: int = -100) -> None:
        super().__init__()
        check_number("num_classes", num_classes, at_least=1, whole=True)
        check_number("num_modalities", num_modalities, at_least=1, whole=True)
        check_number("ignore_index", ignore_index, whole=True)
        self.num_classes = num_classes
        self.num_modalities = num_modalities
        self.ignore_index = ignore_index

    def forward(self, scores: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """The training loss: a scalar, from scores (B, M, C) and class indices (B,) of type int64.

        `index` (B,) int64, the samples' positions in the training set, is for fusions that remember samples; without it
        they take the batch for the first B of them.

        A mean over no samples is 0, with gradients of 0: that is the loss of an empty batch, and of one whose samples
        are all ignored (SoftTriple still adds its regulariser).
        """
        self._check_scores(scores)
        if target.shape != scores.shape[:1] or target.dtype != torch.int64:
            raise ValueError(
                f"target must be {scores.shape[0]} class indices of type int64, "
                f"got shape {tuple(target.shape)} and type {target.dtype}"
            )
        extra: tuple[Tensor, ...] = (
            (self._checked_index(index, len(target), target.device),) if self.reads_index else ()
        )
        if _can_look(target):
            kept = self._not_ignored(target)
            if kept is not None:
                scores, target, extra = scores[kept], target[kept], tuple(x[kept] for x in extra)
            if scores.is_inference() and torch.is_grad_enabled():  # autograd saves no tensor of inference mode
                scores = scores.clone()
        _check_finite(scores)
        return self._in_full_precision("compute_loss", scores, target, *extra)

    def logits(self, scores: Tensor) -> Tensor:
        """Fused class logits (B, C) from scores (B, M, C); the prediction is their argmax."""
        return self._on_scores("compute_logits", scores)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Fused class probabilities (B, C): the softmax of the logits."""
        return self.logits(scores).softmax(dim=-1)

    def compute_logits(self, scores: Tensor) -> Tensor:
        """The logits of scores already checked."""
        raise NotImplementedError

    def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss of scores and targets already checked: cross-entropy of the logits unless overridden.

        On an accelerator or under a transform of torch, ignored targets are still among them (see `kept`).
        """
        return self.cross_entropy(self.compute_logits(scores), target)

    def begin_epoch(self, epoch: int, num_samples: int) -> None:
        """Called before every epoch of training, and once more where an interrupted one goes on.

        What is kept of it belongs in buffers, so that a checkpoint has it.

        Args:
            epoch: counts from 1.
            num_samples: how many training samples there are; `forward` is given their positions among them.
        """

    def monitored(self, scores: Tensor, target: Tensor, loss: Tensor | None = None) -> Tensor:
        """What early stopping watches, a scalar, less is better: the loss, unless it moves by itself while training.

        `loss` is what `forward` gave for the same samples, where that is at hand.
        """
        return self(scores, target) if loss is None else loss

    def negative_log_likelihood(self, scores: Tensor, target: Tensor) -> Tensor:
        """The mean of -log p_y with p the fused probabilities: a scalar."""
        losses = F.cross_entropy(self.logits(scores), target, ignore_index=self.ignore_index, reduction="none")
        return mean_of_kept(losses, target != self.ignore_index)

    @property
    def needs_modality_parameters(self) -> bool:
        """Whether `backward` works on each modality's parameters: then gradients of the scores alone do not do."""
        return False

    def backward(
        self,
        loss: Tensor,
        scores: Tensor,
        target: Tensor,
        modality_parameters: ModalityParameters | None = None,
        share: float = 1.0,
    ) -> None:
        """Add the gradients of a training step to every parameter's `grad`: `loss.backward()` for most fusions.

        Args:
            loss: what `forward` gave for `scores` (with their graph) and `target`.
            modality_parameters: each modality's parameters, for fusions that balance their gradients.
            share: every gradient is multiplied by this, where a batch is computed in parts.
        """
        (loss if share == 1.0 else loss * share).backward()

    def modality_weights(self, scores: Tensor) -> Tensor | None:
        """How much each modality is trusted with each sample, (B, M), at least 0, with sum 1; None: no such weight."""
        return self._on_scores("compute_weights", scores)

    def compute_weights(self, scores: Tensor) -> Tensor | None:
        """The weights of scores already checked."""
        return None

    @property
    def score_width(self) -> int:
        """The last axis of what it reads: C, unless it takes features."""
        return self.num_classes

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What a torch optimiser takes, for a backbone that learns at the rate `lr`; [] without parameters."""
        parameters = list(self.parameters())
        return [{"params": parameters, "lr": lr}] if parameters else []

    def after_training(self, scores: Callable[[], Tensor], target: Tensor) -> None:
        """Called once, when training has ended: for what is fitted to its outcome.

        Args:
            scores: gives the scores of all training samples (N, M, C), as the fusion reads them.
            target: their classes (N,).
        """

    def diagnostics(self, scores: Callable[[], Tensor], target: Tensor) -> dict[str, Any]:
        """JSON numbers on the trained fusion, which a run stores; arguments as of `after_training`."""
        return {}

    def extra_arrays(self) -> dict[str, Tensor]:
        """What is stored beside the predictions when a run is asked to store more."""
        return {}

    def kept(self, target: Tensor) -> Tensor | None:
        """Which samples count (B,); None where all do, as on a CPU, where `forward` has left out the ignored ones."""
        return None if _can_look(target) else target != self.ignore_index

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy of the samples that count; 0 where there is none."""
        kept = self.kept(target)
        if kept is None and not len(target):
            return logits.sum()
        loss = F.cross_entropy(logits, target, ignore_index=self.ignore_index)
        return loss if kept is None else loss.where(kept.any(), 0)

    def extra_repr(self) -> str:
        names = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={vars(self).get(f'_{name}', getattr(self, name))!r}" for name in names)

    def _check_scores(self, scores: Tensor) -> None:
        expected = (self.num_modalities, self.score_width)
        if scores.dim() != 3 or tuple(scores.shape[1:]) != expected:
            raise ValueError(
                f"{type(self).__name__} expects scores of shape (batch, {expected[0]}, {expected[1]}), "
                f"got {tuple(scores.shape)}"
            )
        if not scores.is_floating_point():
            raise ValueError(f"{type(self).__name__} expects floating-point scores, got {scores.dtype}")
        own = {_full(parameter.dtype) for parameter in self.parameters()} - {_full(scores.dtype)}
        if own:
            raise ValueError(
                f"{type(self).__name__} has parameters of {own.pop()} and got scores of {scores.dtype}: convert the "
                "scores, or the fusion by its .float() or .double()"
            )

    def _not_ignored(self, target: Tensor) -> Tensor | None:
        """Which samples count; None where all do. ValueError: a target that is neither a class nor `ignore_index`."""
        if not len(target):
            return None
        least, most = (int(value) for value in target.aminmax())
        if least >= 0 and most < self.num_classes and not least <= self.ignore_index <= most:
            return None
        kept = target != self.ignore_index
        wrong = target[kept & ((target < 0) | (target >= self.num_classes))]
        if len(wrong):
            raise ValueError(
                f"target must hold classes from 0 to {self.num_classes - 1}, or {self.ignore_index} for a sample to "
                f"ignore, got {int(wrong[0])}"
            )
        return kept

    @staticmethod
    def _checked_index(index: Tensor | None, samples: int, device: torch.device) -> Tensor:
        if index is None:
            return torch.arange(samples, device=device)
        if index.shape != (samples,) or index.dtype != torch.int64:
            raise ValueError(
                f"index must be {samples} positions of type int64, got shape {tuple(index.shape)} "
                f"and type {index.dtype}"
            )
        return index

    def _on_scores(self, method: str, scores: Tensor, *rest: Any) -> Tensor:
        """What a method makes of scores, once they are checked."""
        self._check_scores(scores)
        _check_finite(scores)
        return self._in_full_precision(method, scores, *rest)

    def _in_full_precision(self, method: str, scores: Tensor, *rest: Any) -> Tensor:
        """What a method gives where scores and parameters of half precision are float32, and autocast is off."""
        with without_autocast(scores):
            scores = scores.to(_full(scores.dtype))
            half = {f"fusion.{n}": p.float() for n, p in self.named_parameters() if p.dtype in HALF_PRECISION}
            result: Tensor
            if half:
                result = torch.func.functional_call(_Method(self, method), half, (scores, *rest))
            else:
                result = getattr(self, method)(scores, *rest)
            return result


class _Method(nn.Module):
    """A method of a fusion as a module, the form in which torch.func replaces parameters."""

    def __init__(self, fusion: Fusion, name: str) -> None:
        super().__init__()
        self.fusion, self.name = fusion, name

    def forward(self, *arguments: Any) -> Tensor:
        result: Tensor = getattr(self.fusion, self.name)(*arguments)
        return result


def mean_of_kept(losses: Tensor, kept: Tensor | None) -> Tensor:
    """The mean of the losses (B,) of the samples that count, by default all; 0 where there is none."""
    if kept is None:
        return losses.mean() if len(losses) else losses.sum()
    return losses.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)


def share_of_kept(losses: Tensor, kept: Tensor | None) -> Tensor:
    """What `mean_of_kept` divides each sample's gradient by: (B,), infinity for those that do not count, or ()."""
    if kept is None:
        return losses.new_tensor(len(losses))
    return kept.sum().to(losses.dtype).where(kept, torch.inf)


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


def _can_look(values: Tensor) -> bool:
    """Whether values can be looked at for the price of reading them.

    An accelerator would have to finish all its work first, for every batch: a target out of range fails on the device
    itself there, and scores that are not finite make the loss so, which the caller reads anyway.
    """
    return values.device.type == "cpu" and not autograd_only()


def _check_finite(scores: Tensor) -> None:
    """Raise a NonFiniteScores that names the first modality with a score that is not finite."""
    # The sum is one fast pass; that finite scores have an infinite sum is possible, but rare.
    if not _can_look(scores) or math.isfinite(scores.detach().sum()):
        return
    finite = scores.detach().isfinite()
    for m in range(scores.shape[1]):
        if not finite[:, m].all():
            value = float(scores.detach()[:, m][~finite[:, m]][0])
            raise NonFiniteScores(f"the scores of modality {m} (counted from 0) must be finite, got {value}")


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF_PRECISION else dtype
