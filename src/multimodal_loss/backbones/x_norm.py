"""X-Norm (Yin, Xu, Zu and Soleymani, ICMI 2022): two I3D that normalise each other's maps. The backbone of Table 4.

    clips (RGB, flow) -> I3D each, which exchange after Mixed_3b, Mixed_4d and Mixed_5c -> 128 numbers each -> a
    classifier each -> scores (B, 2, C)

Source: the authors' code. It was changed on 23 August 2023, two days after "Deep Metric Loss for Multimodal Learning"
was published; what it did before is `exchange="sequential"`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from multimodal_loss.backbones.i3d import I3D, PARTS, RELEASED, git_blob
from multimodal_loss.backbones.parameters import ModalityParameters, of_modules
from multimodal_loss.errors import UserError, require_choice, require_number
from multimodal_loss.fusion.gradients import without_autocast

EXCHANGES = ("sequential", "simultaneous", "none")
EXCHANGED_AFTER = ("Mixed_3b", "Mixed_4d", "Mixed_5c")
SMALLEST_DEVIATION = 1e-8
KINDS = {3: "rgb", 2: "flow"}  # of clips, by their channels


class XNorm(nn.Module):
    """Scores (B, M, C) from M clips (B, c, T, H, W): RGB (c = 3) and optical flow (c = 2), or one of them alone.

    Args:
        feature_shapes: (c, T, H, W) of each modality; (3, 16, 224, 224) and (2, 16, 224, 224) in the original.
        num_classes: C.
        exchange: "sequential" (the second network is modulated by the first one's maps after these were modulated
            themselves: the code until 23 August 2023, so very probably what the paper's numbers are of), "simultaneous"
            (both by the maps as they were: the article's figure and the code since), or "none" (late fusion of two
            I3D).
        hidden: numbers that each I3D ends in, and units of its classifier.
        dropout: probability, where `BranchEnd` says.
        momentum: of the running statistics that batch normalisation takes in evaluation. 0.01 is the original's: a
            training of fewer than some hundred steps wants more, or they still are what they were at its start.
        width: channels of the I3D as a multiple of the original's; below 1 for networks that train in seconds.
        recompute: compute activations again in the backward pass instead of storing them. The same numbers for a
            fraction of the memory and about a third more time.
        pretrained: files of Kinetics weights by kind of clip, "rgb" and "flow". Where a file is not there, or none is
            named, that network is drawn, and `description` says so.

    Raises:
        UserError: a value out of its range, clips that do not fit together, or a file of weights that does not fit.
    """

    def __init__(
        self,
        feature_shapes: Sequence[Sequence[int]],
        num_classes: int,
        exchange: str = "sequential",
        hidden: int = 128,
        dropout: float = 0.1,
        momentum: float = 0.01,
        width: float = 1.0,
        recompute: bool = False,
        pretrained: Mapping[str, str | Path | None] | None = None,
    ) -> None:
        super().__init__()
        require_choice("backbone.exchange", exchange, EXCHANGES)
        require_choice("backbone.recompute", recompute, (False, True))
        require_number("backbone.hidden", hidden, positive=True, integer=True)
        require_number("backbone.width", width, positive=True)
        require_number("backbone.momentum", momentum, positive=True)
        _require_probability(dropout)
        kinds = _kinds(feature_shapes, exchange)
        self.recompute = recompute
        self.streams = nn.ModuleList(I3D(shape[0], hidden, width, dropout, momentum) for shape in feature_shapes)
        self.exchanges = nn.ModuleDict()
        if exchange != "none" and len(kinds) == 2:
            channels = self._streams()[0].map_channels
            for stage in EXCHANGED_AFTER:
                self.exchanges[stage] = NormExchange(channels[stage], exchange == "sequential")
        self.classifiers = nn.ModuleList(classifier(hidden, num_classes, dropout) for _ in kinds)
        files = pretrained or {}
        for kind in files:
            require_choice("backbone.pretrained", kind, tuple(RELEASED))
        pairs = zip(kinds, self._streams(), strict=True)
        self.origins = {kind: start(stream, files.get(kind)) for kind, stream in pairs}
        self._is_narrow = width != 1

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        features = self.pooled_features(inputs)
        with without_autocast(features[0]):
            dtype = next(self.classifiers.parameters()).dtype
            ends = [stream.end(x.to(dtype)) for stream, x in zip(self._streams(), features, strict=True)]
            return torch.stack([score(x) for score, x in zip(self.classifiers, ends, strict=True)], dim=1)

    def pooled_features(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What each I3D pools its last maps to (B, 1024 * width)."""
        maps, streams = list(inputs), self._streams()
        for part in PARTS:
            maps = [
                self._stored(s, lambda x, s=s, part=part: s.run(part, x), x) for s, x in zip(streams, maps, strict=True)
            ]
            if part[-1] in self.exchanges:
                exchange = self.exchanges[part[-1]]
                maps = list(self._stored(exchange, exchange, *maps))
        return [stream.pooled(x) for stream, x in zip(streams, maps, strict=True)]

    def modality_parameters(self) -> ModalityParameters:
        """A network and its classifier; what they exchange through is of no one modality."""
        return of_modules(zip(self.streams, self.classifiers, strict=True))

    def description(self) -> dict[str, Any]:
        """What result.json says of it; a `notice` stands with every number that comes of it."""
        said: dict[str, Any] = {"initial_weights": {k: o.text if o else "drawn" for k, o in self.origins.items()}}
        remarks = [] if self._is_narrow else notices(self.origins)  # no released weights are of a narrow network
        return said | ({"notice": "; ".join(remarks)} if remarks else {})

    def _stored(self, module: nn.Module, run: Callable[..., Any], *inputs: Tensor) -> Any:
        """`run(*inputs)`, a part of `module`, with what its gradient needs stored, or computed again later."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return run(*inputs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), statistics_untouched(module)

        return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts)

    def _streams(self) -> list[I3D]:
        return [stream for stream in self.streams if isinstance(stream, I3D)]


class NormExchange(nn.Module):
    """Maps (B, C, T, H, W) of two networks, each normalised and then scaled and shifted by what the other's say.

        x1' = x1 + n(x1) scale + shift, (shift, scale) = to_first(x2), and likewise the other way round

    n(x) = (x - mean) / (sd + 1e-8) over all of a sample's C T H W numbers, sd with n - 1; scale and shift are full
    maps, of a convolution of size 1. `sequential`: x2' is modulated by x1' and not by x1.
    """

    def __init__(self, channels: int, sequential: bool) -> None:
        super().__init__()
        self.sequential = sequential
        self.to_first = nn.Conv3d(channels, 2 * channels, 1)
        self.to_second = nn.Conv3d(channels, 2 * channels, 1)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        changed = _modulated(first, self.to_first(second))
        return changed, _modulated(second, self.to_second(changed if self.sequential else first))


class BranchEnd(nn.Module):
    """What follows an I3D's pool, for features that were pooled before: (B, features) to scores (B, C).

    Dropout, a Linear layer to `hidden` numbers, and the classifier.
    """

    def __init__(self, features: int, num_classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(features, hidden), classifier(hidden, num_classes, dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


class XNormEnds(nn.Module):
    """X-Norm behind its pools: scores (B, M, C) from M vectors of features, a `BranchEnd` each. Nothing is exchanged.

    Args:
        feature_shapes: (features,) of each modality, 1,024 of an I3D.
        num_classes: C.
        hidden, dropout: as `XNorm` has them.
    """

    def __init__(
        self, feature_shapes: Sequence[Sequence[int]], num_classes: int, hidden: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_number("backbone.hidden", hidden, positive=True, integer=True)
        _require_probability(dropout)
        widths = [torch.Size(shape).numel() for shape in feature_shapes]
        self.ends = nn.ModuleList(BranchEnd(width, num_classes, hidden, dropout) for width in widths)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.stack([end(x.flatten(1)) for end, x in zip(self.ends, inputs, strict=True)], dim=1)

    def modality_parameters(self) -> ModalityParameters:
        """A modality's end."""
        return of_modules([end] for end in self.ends)


def classifier(hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """(B, hidden) to scores (B, C). Dropout stands before each tanh, and on the scores themselves, as in the code."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(hidden, hidden), nn.Dropout(dropout), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(hidden, num_classes), nn.Dropout(dropout))


class Origin(NamedTuple):
    """A file that weights were taken from."""

    name: str
    git_blob: str

    @property
    def text(self) -> str:
        return f"{self.name}, git blob {self.git_blob}"


def start(stream: I3D, path: str | Path | None) -> Origin | None:
    """Give an I3D the weights in a file; None, and the weights that were drawn, where the file is not there."""
    if path is None or not Path(path).exists():
        return None
    stream.load_weights(path)
    return Origin(Path(path).name, git_blob(path))


def notices(origins: Mapping[str, Origin | None]) -> list[str]:
    """What must be said of networks, by their kind, that do not begin from the released weights."""
    drawn = [kind for kind, origin in origins.items() if origin is None]
    said = []
    if drawn:
        which = "" if len(drawn) == len(origins) else f"{', '.join(drawn)} "
        said.append(f"{which}I3D from scratch, not from the Kinetics weights that the paper begins with")
    for kind, origin in origins.items():
        released = RELEASED[kind]
        if origin and origin.git_blob != released.git_blob:
            ids = f"git blob {origin.git_blob[:8]}, not {released.git_blob[:8]}"
            said.append(f"{kind} I3D from {origin.name}, which is not the released {released.name} ({ids})")
    return said


@contextmanager
def statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Batch normalisation normalises as ever, but its running means and variances stay: for computing a thing again."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm3d)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    try:
        for layer in layers:
            layer.momentum, layer.num_batches_tracked = 0.0, None
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches


def _modulated(x: Tensor, parameters: Tensor) -> Tensor:
    """x + n(x) scale + shift. PyTorch's group norm divides by the standard deviation with n; the factor mends it."""
    shift, scale = parameters.chunk(2, dim=1)
    number = x[0].numel()
    with without_autocast(x):  # which would store a float32 copy; the statistics are float32 anyway
        normal = F.group_norm(x, 1, eps=SMALLEST_DEVIATION**2)
    return torch.addcmul(x + shift, normal, scale, value=math.sqrt((number - 1) / number))


def _kinds(feature_shapes: Sequence[Sequence[int]], exchange: str) -> list[str]:
    """The kind of each modality's clips. UserError for what are no clips, or clips that cannot be exchanged."""
    shapes = [tuple(shape) for shape in feature_shapes]
    listed = ", ".join(map(str, shapes))
    if any(len(shape) != 4 or shape[0] not in KINDS for shape in shapes):
        raise UserError(
            f"backbone x_norm: samples have shapes {listed}; it takes clips (3 or 2, time, height, width), RGB or "
            "flow: choose another backbone or dataset"
        )
    if exchange != "none" and len(shapes) > 1 and (len(shapes) > 2 or shapes[0][1:] != shapes[1][1:]):
        raise UserError(
            f"backbone.exchange={exchange}: takes two modalities of equal time, height and width, and these are "
            f"{listed}; set backbone.exchange=none"
        )
    return [KINDS[shape[0]] for shape in shapes]


def _require_probability(dropout: float) -> None:
    require_number("backbone.dropout", dropout)
    if dropout >= 1:
        raise UserError(f"backbone.dropout={dropout}: must be below 1")
