"""EfficientFace (Zhao, Liu and Zhou, AAAI 2021): the image network that Intermediate Attention reads each frame with.

ShuffleNetV2 units whose first stage is gated (the modulator) and joined by a path that sees each quarter of the face
alone (the local branch). Source: its formulas and the released weights, whose file `load_weights` reads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multimodal_loss.errors import UserError, require_number

CHANNELS = (29, 116, 232, 464, 1024)
UNITS = (4, 8, 4)
REDUCTION = 16  # of the channels inside the modulator's gates
STRIDE = 16  # images are a multiple of it, so that quarters of the first map tile the next stage's
# In a file of released weights: the modulator's layers, and those of the four quarters, which are one here.
NAMES = {
    "modulator.channel_att.gate_c.gate_c_fc_0": "modulator.channel.0",
    "modulator.channel_att.gate_c.gate_c_bn_1": "modulator.channel.1",
    "modulator.channel_att.gate_c.gate_c_fc_final": "modulator.channel.3",
    "modulator.spatial_att.gate_s.gate_s_conv_reduce0": "modulator.spatial.0",
    "modulator.spatial_att.gate_s.gate_s_bn_reduce0": "modulator.spatial.1",
    "modulator.spatial_att.gate_s.gate_s_conv_di_0": "modulator.spatial.3",
    "modulator.spatial_att.gate_s.gate_s_bn_di_0": "modulator.spatial.4",
    "modulator.spatial_att.gate_s.gate_s_conv_di_1": "modulator.spatial.6",
    "modulator.spatial_att.gate_s.gate_s_bn_di_1": "modulator.spatial.7",
    "modulator.spatial_att.gate_s.gate_s_conv_final": "modulator.spatial.9",
}
QUARTERS = {"conv{}_1": "layers.0", "bn{}_1": "layers.1", "conv{}_2": "layers.3", "bn{}_2": "layers.4"}


class EfficientFace(nn.Module):
    """Features (N, channels[-1]) of images (N, 3, H, W) in [0, 1]; H and W are multiples of 16, 224 in the original.

    Args:
        channels: of the first convolution, of the three stages, and of the last convolution. Those of a stage are even,
            the first stage's a multiple of the first convolution's.
        units: ShuffleNetV2 units of each stage.

    Raises:
        UserError: numbers that do not fit together.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, units: Sequence[int] = UNITS) -> None:
        super().__init__()
        _check(channels, units)
        stem, first, second, third, last = channels
        self.conv1 = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(Unit(before, after, 2), *(Unit(after, after, 1) for _ in range(number - 1)))
            for before, after, number in zip(channels[:3], (first, second, third), units, strict=True)
        )
        self.local = LocalBranch(stem, first)
        self.modulator = Modulator(first)
        self.conv5 = nn.Sequential(nn.Conv2d(third, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(images))
        x = self.modulator(self.stage2(x)) + self.local(x)
        x = self.conv5(self.stage4(self.stage3(x)))
        features: Tensor = x.mean(dim=(2, 3))
        return features

    def load_weights(self, path: str | Path) -> None:
        """Take the weights of a released file, such as `EfficientFace_Trained_on_AffectNet7.pth.tar`, but for its
        classifier.

        Raises UserError, and changes nothing, where the file cannot be read or holds another network's weights.
        """
        given, own = _converted(_released(path)), self.state_dict()
        for complaint, names in (("lacks", own.keys() - given.keys()), ("has also", given.keys() - own.keys())):
            if names:
                first = sorted(names)[0]
                raise UserError(f"{path}: not EfficientFace's weights: it {complaint} {first} ({len(names)} in all)")
        for name, tensor in own.items():
            if tensor.shape != given[name].shape:
                shapes = f"{tuple(given[name].shape)}, and not {tuple(tensor.shape)}"
                raise UserError(f"{path}: {name} has shape {shapes}; is backbone.channels the original's?")
        self.load_state_dict(given)


class Unit(nn.Module):
    """A ShuffleNetV2 unit (N, C, H, W) -> (N, C', H / stride, W / stride).

    Stride 1: half of the channels pass as they are, the other half through a branch. Stride 2: a branch each on all.
    Then the halves' channels take turns.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1 = None if stride == 1 else nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, half))
        own = half if stride == 1 else inputs
        self.branch2 = nn.Sequential(*_pointwise(own, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.branch1 is None else (self.branch1(x), x)
        both = torch.stack([left, self.branch2(right)], dim=2)
        return both.flatten(1, 2)


class LocalBranch(nn.Module):
    """(N, C, H, W) -> (N, C', H / 2, W / 2): each quarter of the map through two depthwise convolutions of its own.

    The quarters (top left, bottom left, top right, bottom right) are groups of channels of one convolution.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4 * inputs, 4 * outputs, 3, 2, 1, groups=4 * inputs, bias=False),
            nn.BatchNorm2d(4 * outputs),
            nn.ReLU(),
            nn.Conv2d(4 * outputs, 4 * outputs, 3, 1, 1, groups=4 * outputs, bias=False),
            nn.BatchNorm2d(4 * outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        quarters = x.unflatten(3, (2, -1)).unflatten(2, (2, -1))  # (N, C, upper or lower, H / 2, left or right, W / 2)
        y = self.layers(quarters.permute(0, 4, 2, 1, 3, 5).flatten(1, 3))
        tiled: Tensor = y.unflatten(1, (2, 2, -1)).permute(0, 3, 2, 4, 1, 5)
        return tiled.flatten(4, 5).flatten(2, 3)


class Modulator(nn.Module):
    """x * sigmoid(channel gate * spatial gate), (N, C, H, W): gates (N, C) of the map's mean, and (N, 1, H, W) of
    convolutions that look 4 steps away.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // REDUCTION, 1)
        self.channel = nn.Sequential(
            nn.Linear(channels, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Linear(inner, channels)
        )
        dilated = [
            layer
            for _ in range(2)
            for layer in (nn.Conv2d(inner, inner, 3, padding=4, dilation=4), nn.BatchNorm2d(inner), nn.ReLU())
        ]
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(), *dilated, nn.Conv2d(inner, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.channel(x.mean(dim=(2, 3)))[:, :, None, None] * self.spatial(x)
        return x * gate.sigmoid()


def _pointwise(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _depthwise(channels: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)


def _check(channels: Sequence[int], units: Sequence[int]) -> None:
    for key, numbers, length in (("channels", channels, 5), ("units", units, 3)):
        if not isinstance(numbers, Sequence) or len(numbers) != length:
            raise UserError(f"backbone.{key}={numbers}: must be {length} numbers")
        for number in numbers:
            require_number(f"backbone.{key}", number, positive=True, integer=True)
    if any(number % 2 for number in channels[1:4]) or channels[1] % channels[0]:
        raise UserError(
            f"backbone.channels={list(channels)}: those of the stages (the second to the fourth) must be even, and the "
            "second a multiple of the first"
        )


# --- the file of released weights


class _Recorder:
    """Stands for the training log in released files, of a class that their training script defines."""


def _released(path: str | Path) -> dict[str, Tensor]:
    """The tensors in the file, by the names that it gives them, without `module.` and without the classifier."""
    # Beside the weights there may be such a log, which holds numpy arrays; numpy has renamed its modules since.
    reduced: Any = np.zeros(1).__reduce__()
    harmless: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))]
    harmless += [(reduced[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    harmless += [(_Recorder, f"__main__.{name}") for name in ("RecorderMeter", "RecorderMeter1")]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"backbone.pretrained={path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a file that is something else makes torch.load raise
        raise UserError(
            f"backbone.pretrained={path}: not a file of weights that torch.load reads with weights_only=True "
            f"({type(error).__name__}); take the .pth.tar as downloaded, not unpacked"
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(one, Tensor) for one in weights.values()):
        raise UserError(f"backbone.pretrained={path}: holds no weights by name, nor under state_dict")
    plain = {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in plain.items() if not name.startswith("fc.")}


def _converted(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of this module, with the four quarters' layers as one; what it does not know stays as it is."""
    weights = {}
    for name, tensor in released.items():
        layer, _, kind = name.rpartition(".")
        weights[f"{NAMES.get(layer, layer)}.{kind}"] = tensor
    for theirs, ours in QUARTERS.items():
        layers = [f"local.{theirs.format(quarter)}." for quarter in range(1, 5)]
        for kind in [name.removeprefix(layers[0]) for name in released if name.startswith(layers[0])]:
            found = [weights.pop(layer + kind) for layer in layers if layer + kind in weights]
            if len({one.shape for one in found}) == 1 and len(found) == len(layers):
                weights[f"local.{ours}.{kind}"] = torch.cat(found) if found[0].dim() else found[0]
    return weights
