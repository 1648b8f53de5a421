"""What every fusion shares: the interface, the checks of its input, and the default of its probabilities."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.fusion.gradients import autograd_only, without_autocast

HALF_PRECISION = (torch.float16, torch.bfloat16)
REDUCTIONS = ("mean", "sum", "none")

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

    Missing modalities: every call takes `mask` (B, M) of type bool, True where a sample has the modality. What is
    masked is never read, so it may be NaN, and gets a gradient of exactly 0. A sample's loss and prediction are those
    of a fusion of its modalities alone, whose parameters are the parts of these that belong to them; each class says
    what that comes to. A new fusion has masks where its `compute_logits`, and whatever other method it overrides, takes
    a further argument `mask`. It is given (B, M), or None where nothing is missing; masked scores are 0 by then.

    Data parallel: where processes average their gradients (DistributedDataParallel), those of a loss that is a mean
    over samples are the gradients of one process, if all parts of the batch have the same number of samples that count
    (the same sum of weights, with class weights). ProxyAnchor, QMF and OGMGE look at a batch as a whole: there they are
    not.

    Args:
        num_classes: C, at least 1.
        num_modalities: M, at least 1.
        ignore_index: samples with this target leave the loss as if they were not in the batch.
        reduction: "mean", "sum" or "none" of the samples' losses, as in torch.nn.CrossEntropyLoss; this and the next
            two where the fusion offers them, which are those whose loss is a mean over samples.
        weight: one number per class, by which a sample's loss is multiplied; the mean is over the sum of the weights.
        label_smoothing: from 0 to 1; that much of every target is spread over all classes.

    Raises:
        TypeError: scores, targets or a mask that are no tensors.
        ValueError: a size that is no whole number of at least 1; in the calls, scores, targets or masks of another
            shape, type or device than said below, a mask where the fusion knows none, and, on a CPU, targets out of
            range, scores that are not finite, and a sample without any modality.
    """

    # Whether `compute_loss` takes `index`; whether its methods take `mask` is found by their signatures.
    reads_index: ClassVar[bool] = False
    reads_mask: ClassVar[bool] = True
    class_weight: Tensor | None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        computing = (cls.compute_loss, cls.compute_logits, cls.compute_weights)
        methods = (*computing, cls.monitored, cls.backward, cls.after_training, cls.diagnostics)
        cls.reads_mask = all("mask" in inspect.signature(method).parameters for method in methods)

    def __init__(
        self,
        num_classes: int,
        num_modalities: int,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("num_classes", num_classes, at_least=1, whole=True)
        check_number("num_modalities", num_modalities, at_least=1, whole=True)
        check_number("ignore_index", ignore_index, whole=True)
        check_choice("reduction", reduction, REDUCTIONS)
        check_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
        self.num_classes = num_classes
        self.num_modalities = num_modalities
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        if weight is not None:
            checked = numbers("weight", weight, num_classes, "class", at_least=0)
            weight = weight.detach().clone() if isinstance(weight, Tensor) else torch.tensor(checked)
        self.register_buffer("class_weight", weight)

    def forward(
        self, scores: Tensor, target: Tensor, index: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The training loss: a scalar, from scores (B, M, C) and class indices (B,) of type int64.

        `index` (B,) int64, the samples' positions in the training set, is for fusions that remember samples; without it
        they take the batch for the first B of them. `mask` (B, M) bool is True where a sample has the modality.

        A mean over no samples is 0, with gradients of 0: that is the loss of an empty batch, and of one whose samples
        are all ignored (SoftTriple still adds its regulariser). With reduction="none" the loss is (B,), 0 where a
        sample is ignored.
        """
        scores, target, mask, kept = self._counted(scores, target, mask)
        extra = _if_any(mask)
        if self.reads_index:
            index = self._checked_index(index, len(target if kept is None else kept), target.device)
            extra["index"] = index if kept is None else index[kept]
        if _can_look(target) and scores.is_inference() and torch.is_grad_enabled():
            scores = scores.clone()  # autograd saves no tensor of inference mode
        _check_finite(scores)
        loss = self._in_full_precision("compute_loss", scores, target, **extra)
        if kept is None or self.reduction != "none":
            return loss
        return loss.new_zeros(kept.shape).masked_scatter(kept, loss)

    def logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fused class logits (B, C) from scores (B, M, C); the prediction is their argmax."""
        return self._on_scores("compute_logits", scores, mask)

    def probabilities(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fused class probabilities (B, C): the softmax of the logits."""
        return self.logits(scores, mask).softmax(dim=-1)

    def compute_logits(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits of scores already checked."""
        raise NotImplementedError

    def compute_loss(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of scores and targets already checked: cross-entropy of the logits unless overridden.

        On an accelerator or under a transform of torch, ignored targets are still among them (see `kept`).
        """
        return self.cross_entropy(self.compute_logits(scores, **_if_any(mask)), target)

    def begin_epoch(self, epoch: int, num_samples: int) -> None:
        """Called before every epoch of training, and once more where an interrupted one goes on.

        What is kept of it belongs in buffers, so that a checkpoint has it.

        Args:
            epoch: counts from 1.
            num_samples: how many training samples there are; `forward` is given their positions among them.
        """

    def monitored(
        self, scores: Tensor, target: Tensor, loss: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What early stopping watches, a scalar, less is better: the loss, unless it moves by itself while training.

        `loss` is what `forward` gave for the same samples, where that is at hand.
        """
        return self(scores, target, mask=mask) if loss is None else loss

    def negative_log_likelihood(self, scores: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of -log p_y with p the fused probabilities: a scalar."""
        scores, target, mask, _ = self._counted(scores, target, mask)
        losses = F.cross_entropy(self.logits(scores, mask), target, ignore_index=self.ignore_index, reduction="none")
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
        mask: Tensor | None = None,
    ) -> None:
        """Add the gradients of a training step to every parameter's `grad`: `loss.backward()` for most fusions.

        Args:
            loss: what `forward` gave for `scores` (with their graph) and `target`.
            modality_parameters: each modality's parameters, for fusions that balance their gradients.
            share: every gradient is multiplied by this, where a batch is computed in parts.
            mask: as `forward` was given it.
        """
        (loss if share == 1.0 else loss * share).backward()

    def modality_weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """How much each modality is trusted with each sample, (B, M), at least 0, with sum 1; None: no such weight.

        That of a missing modality is 0.
        """
        return self._on_scores("compute_weights", scores, mask)

    def compute_weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor | None:
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

    def after_training(self, scores: Callable[[], Tensor], target: Tensor, mask: Tensor | None = None) -> None:
        """Called once, when training has ended: for what is fitted to its outcome.

        Args:
            scores: gives the scores of all training samples (N, M, C), as the fusion reads them.
            target: their classes (N,).
            mask: which modalities they have (N, M), where some lack one.
        """

    def diagnostics(self, scores: Callable[[], Tensor], target: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """JSON numbers on the trained fusion, which a run stores; arguments as of `after_training`."""
        return {}

    def extra_arrays(self) -> dict[str, Tensor]:
        """What is stored beside the predictions when a run is asked to store more."""
        return {}

    def kept(self, target: Tensor) -> Tensor | None:
        """Which samples count (B,); None where all do, as on a CPU, where `forward` has left out the ignored ones."""
        return None if _can_look(target) else target != self.ignore_index

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy of the samples that count, 0 where there is none; or what the options make of it."""
        if self.reduction != "mean" or self.class_weight is not None:
            return self.reduced(self.cross_entropies(logits, target), target)
        kept = self.kept(target)
        if kept is None and not len(target):
            return logits.sum()
        loss = F.cross_entropy(logits, target, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing)
        return loss if kept is None else loss.where(kept.any(), 0)

    def cross_entropies(self, logits: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of each sample (B,), or of each of a sample's logits: (B, V) from logits (B, V, C).

        With class weights and label smoothing; what is ignored has 0.
        """
        if logits.dim() == 3:
            logits, target = logits.mT, target[:, None].expand(-1, logits.shape[1])
        weight = None if self.class_weight is None else self.class_weight.to(logits.dtype)
        return F.cross_entropy(
            logits,
            target,
            weight,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def weighted(self, losses: Tensor, target: Tensor) -> Tensor:
        """Losses (B,) times the weights of their classes, for those that are no `cross_entropies`."""
        weight = self.sample_weights(target)
        return losses if weight is None else losses * weight.to(losses.dtype)

    def sample_weights(self, target: Tensor) -> Tensor | None:
        """The weight of each sample's class (B,); None where there are no weights."""
        if self.class_weight is None:
            return None
        kept = self.kept(target)
        return self.class_weight[target if kept is None else target.where(kept, 0)]

    def reduced(self, losses: Tensor, target: Tensor) -> Tensor:
        """What `reduction` makes of the samples' losses (B,), class weights included."""
        kept = self.kept(target)
        if self.reduction == "mean" and self.class_weight is None:
            return mean_of_kept(losses, kept)
        if kept is not None:
            losses = losses.masked_fill(~kept, 0)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.sum() / self._total_weight(target, losses.dtype)

    def divisors(self, target: Tensor, like: Tensor) -> Tensor:
        """What `reduced(weighted(losses))` divides each sample's gradient by: () or (B,), infinity for ignored ones.

        For losses that work out their own gradients; like 1 with reduction="none".
        """
        kept, weight = self.kept(target), self.sample_weights(target)
        if weight is None and self.reduction == "mean":
            return share_of_kept(like, kept)
        total = like.new_ones(()) if self.reduction != "mean" else self._total_weight(target, like.dtype)
        divisors = total.expand(len(target)) if weight is None else total / weight.to(like.dtype)
        return divisors if kept is None else divisors.where(kept, torch.inf)

    def _total_weight(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        """The sum of the samples' weights (); 1 where it is 0, as the loss is then."""
        weight, kept = self.sample_weights(target), self.kept(target)
        assert weight is not None
        total = (weight if kept is None else weight.masked_fill(~kept, 0)).to(dtype).sum()
        return total.where(total > 0, 1)

    def extra_repr(self) -> str:
        said = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = vars(self).get(f"_{name}", getattr(self, name, None))
            if name == "weight":
                value = None if self.class_weight is None else self.class_weight.tolist()
            # What every loss of PyTorch has is said where it is not as usual.
            if name not in ("reduction", "weight", "label_smoothing") or value != parameter.default:
                said.append(f"{name}={value!r}")
        return ", ".join(said)

    def _check_scores(self, scores: Tensor) -> None:
        expected = (self.num_modalities, self.score_width)
        _check_tensor("scores", scores, f"shape (batch, {expected[0]}, {expected[1]})")
        if scores.dim() != 3 or tuple(scores.shape[1:]) != expected:
            raise ValueError(
                f"{type(self).__name__} expects scores of shape (batch, {expected[0]}, {expected[1]}), "
                f"got {tuple(scores.shape)}"
            )
        if not scores.is_floating_point():
            raise ValueError(f"{type(self).__name__} expects floating-point scores, got {scores.dtype}")
        parameters = list(self.parameters())
        if parameters:
            _check_device("scores", scores, parameters[0], f"the parameters of {type(self).__name__}")
        own = {_full(parameter.dtype) for parameter in parameters} - {_full(scores.dtype)}
        if own:
            raise ValueError(
                f"{type(self).__name__} has parameters of {own.pop()} and got scores of {scores.dtype}: convert the "
                "scores, or the fusion by its .float() or .double()"
            )

    def _counted(
        self, scores: Tensor, target: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Scores, targets and mask, checked, of the samples that count, on a CPU; and which those are, None for all."""
        self._check_scores(scores)
        _check_tensor("target", target, f"{scores.shape[0]} class indices")
        wanted = f"target must be {scores.shape[0]} class indices of type int64"
        _check_shape(target, scores.shape[:1], torch.int64, wanted)
        _check_device("target", target, scores)
        kept = self._not_ignored(target) if _can_look(target) else None
        scores, mask = self._masked(scores, mask, kept)
        if kept is None:
            return scores, target, mask, None
        return scores[kept], target[kept], None if mask is None else mask[kept], kept

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

    def _masked(self, scores: Tensor, mask: Tensor | None, kept: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Scores with 0 for what is missing, and the mask; None where the host sees that nothing is."""
        if mask is None:
            return scores, None
        if not self.reads_mask:
            raise ValueError(
                f"{type(self).__name__} knows no missing modalities: compute_logits, or another method that it "
                "overrides, does not take `mask`"
            )
        _check_tensor("mask", mask, f"shape ({scores.shape[0]}, {scores.shape[1]}), True where there is a modality")
        wanted = f"mask must have shape {tuple(scores.shape[:2])} and type bool, True where a sample has the modality"
        _check_shape(mask, scores.shape[:2], torch.bool, wanted)
        _check_device("mask", mask, scores)
        if _can_look(mask):
            if mask.all():
                return scores, None
            without = ~mask.any(dim=1) if kept is None else kept & ~mask.any(dim=1)
            if without.any():
                raise ValueError(f"sample {int(without.nonzero()[0])} of the batch (counted from 0) has no modality")
        return scores.masked_fill(~mask.unsqueeze(2), 0), mask

    @staticmethod
    def _checked_index(index: Tensor | None, samples: int, device: torch.device) -> Tensor:
        if index is None:
            return torch.arange(samples, device=device)
        _check_shape(index, (samples,), torch.int64, f"index must be {samples} positions of type int64")
        return index

    def _on_scores(self, method: str, scores: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        """What a method makes of scores, once they are checked."""
        self._check_scores(scores)
        scores, mask = self._masked(scores, mask)
        _check_finite(scores)
        return self._in_full_precision(method, scores, **_if_any(mask), **options)

    def _in_full_precision(self, method: str, scores: Tensor, *rest: Any, **options: Any) -> Tensor:
        """What a method gives where scores and parameters of half precision are float32, and autocast is off."""
        with without_autocast(scores):
            scores = scores.to(_full(scores.dtype))
            half = {f"fusion.{n}": p.float() for n, p in self.named_parameters() if p.dtype in HALF_PRECISION}
            result: Tensor
            if half:
                result = torch.func.functional_call(_Method(self, method), half, (scores, *rest), options)
            else:
                result = getattr(self, method)(scores, *rest, **options)
            return result


class _Method(nn.Module):
    """A method of a fusion as a module, the form in which torch.func replaces parameters."""

    def __init__(self, fusion: Fusion, name: str) -> None:
        super().__init__()
        self.fusion, self.name = fusion, name

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        result: Tensor = getattr(self.fusion, self.name)(*arguments, **options)
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


def shares(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each modality's share of the values (B, M), those below 0 as 0; equal ones where none is above."""
    here = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    values = values.clamp(min=0).masked_fill(~here, 0)
    values = values.masked_fill(~(values > 0).any(dim=1, keepdim=True) & here, 1)
    total = values.sum(dim=1, keepdim=True)
    return values / total.where(total > 0, 1)  # 0 of an ignored sample without any modality, on an accelerator


def predicted_shares(contributions: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each modality's share (B, M) of what all add to the predicted class, from what they add to each (B, M, C)."""
    predicted = contributions.sum(dim=1, keepdim=True).argmax(dim=2, keepdim=True)
    return shares(contributions.take_along_dim(predicted, dim=2).squeeze(2), mask)


def patterns(mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Which samples of a mask (B, M) have the same modalities: for each kind their positions, and the modalities'."""
    if mask.shape[1] < 63:  # as binary numbers they are sorted 15 times as fast
        places = torch.arange(mask.shape[1], device=mask.device)
        codes, kind_of = (mask * 2**places).sum(dim=1).unique(return_inverse=True)
    else:
        codes, kind_of = mask.unique(dim=0, return_inverse=True)
    samples = [(kind_of == kind).nonzero()[:, 0] for kind in range(len(codes))]
    return [(rows, mask[rows[0]].nonzero()[:, 0]) for rows in samples]


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError in one line when an option has a value that it does not know."""
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def check_number(
    option: str,
    value: object,
    at_least: float | None = None,
    above: float | None = None,
    whole: bool = False,
    at_most: float | None = None,
) -> None:
    """Raise a ValueError in one line unless an option is a finite number, within the bounds and whole where asked."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    right_type = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    number = float(value) if right_type else math.nan  # type: ignore[arg-type]
    too_low = (at_least is not None and number < at_least) or (above is not None and number <= above)
    if not math.isfinite(number) or too_low or (at_most is not None and number > at_most):
        bound = f" of at least {at_least}" if at_least is not None else f" above {above}" if above is not None else ""
        bound += f" and at most {at_most}" if at_most is not None else ""
        raise ValueError(f"{option} must be a {'whole number' if whole else 'number'}{bound}, got {value!r}")


def numbers(
    option: str, given: Sequence[float] | Tensor, count: int, of_what: str, at_least: float | None = None
) -> list[float]:
    """An option with one number for each class or modality; ValueErrors as of `check_number`."""
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ValueError(f"{option} must be a list with one number per {of_what} ({count}), got {given!r}")
    values = list(given)
    for place, value in enumerate(values):
        check_number(f"{option}[{place}]", value, at_least=at_least)
    if len(values) != count:
        raise ValueError(f"{option} must hold one number per {of_what} ({count}), got {len(values)}")
    return [float(value) for value in values]


def _if_any(mask: Tensor | None) -> dict[str, Tensor]:
    """A mask as an argument: a fusion that knows none is not given any."""
    return {} if mask is None else {"mask": mask}


def _check_tensor(name: str, value: object, expected: str) -> None:
    if not isinstance(value, Tensor):
        stack = ": torch.stack of M tensors (B, C) with dim=1 makes one" if name == "scores" else ""
        raise TypeError(f"{name} must be a tensor, {expected}, got a {type(value).__name__}{stack}")


def _check_shape(value: Tensor, shape: Sequence[int], dtype: torch.dtype, wanted: str) -> None:
    """ValueError, which begins with `wanted`, where the value has another shape or type."""
    if value.shape != tuple(shape) or value.dtype != dtype:
        raise ValueError(f"{wanted}, got shape {tuple(value.shape)} and type {value.dtype}")


def _check_device(name: str, value: Tensor, other: Tensor, others: str = "scores") -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {others}, {other.device}, got {value.device}: move it by .to"
        )


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
