"""Intermediate Attention (Chumachenko, Iosifidis and Gabbouj, ICPR 2022): the backbone of Table 2, for sound and face.

Each branch has two stages over time. Between them, each weighs the other's time steps by how much it attends to them;
there is no residual and no value path, so what is exchanged is which moments count. Source: the formulas of the
released code. What its output never depends on (the value halves and output projections of the attention, and the heads
that a mode does not read) is left out here.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from multimodal_loss.backbones.efficient_face import CHANNELS, STRIDE, UNITS, EfficientFace
from multimodal_loss.backbones.intermediate_attention_blocks import BRANCH_WIDTH, AudioBranch, temporal_block
from multimodal_loss.backbones.parameters import ModalityParameters, of_modules
from multimodal_loss.errors import UserError, require_choice, require_number

HEADS = ("per_modality", "joint")
AUDIO_WIDTH, VIDEO_WIDTH = 128, 64  # channels after the first stage
FROM_SCRATCH = "trunk from scratch, not from EfficientFace's AffectNet weights"


class IntermediateAttention(nn.Module):
    """Scores (B, 2, C) of sound and video, in the order given; (B, 1, C) where `joint`, or of one of the two alone.

    Args:
        feature_shapes: of one sample: (F, T) of sound, such as MFCC, T above 12; (3, frames, H, W) of video, values in
            [0, 1], H and W multiples of 16. Both, in either order, or one, whose branch then stands alone.
        num_classes: C.
        head: "per_modality": a Linear layer on each branch, pooled over time; "joint": the original's one Linear layer
            on both side by side.
        attention_heads: heads of either attention, 1, 2, 4, ... 64; their weights are averaged.
        channels, units: of the trunk, see EfficientFace.
        pretrained: the file of EfficientFace's released weights for the trunk; None draws them.

    Raises:
        UserError: samples of other shapes, a value out of its range, or a file that is not of such weights.
    """

    def __init__(
        self,
        feature_shapes: Sequence[Sequence[int]],
        num_classes: int,
        head: str = "per_modality",
        attention_heads: int = 1,
        channels: Sequence[int] = CHANNELS,
        units: Sequence[int] = UNITS,
        pretrained: str | Path | None = None,
    ) -> None:
        super().__init__()
        require_choice("backbone.head", head, HEADS)
        require_number("backbone.attention_heads", attention_heads, positive=True, integer=True)
        if VIDEO_WIDTH % attention_heads:
            raise UserError(f"backbone.attention_heads={attention_heads}: must divide {VIDEO_WIDTH}")
        shapes = [tuple(shape) for shape in feature_shapes]
        kinds = ["audio" if len(shape) == 2 else "video" if _is_video(shape) else "" for shape in shapes]
        if "" in kinds or len(set(kinds)) < len(kinds):
            raise UserError(
                f"backbone intermediate_attention: samples have shapes {', '.join(map(str, shapes))}; it takes sound "
                f"(features, time), video (3, frames, height, width) with sides that are multiples of {STRIDE}, or "
                "one of each: choose another backbone or dataset"
            )
        self.kinds = kinds
        self.joint = head == "joint" and len(kinds) == 2
        self.branches = nn.ModuleDict()
        for kind, shape in zip(kinds, shapes, strict=True):
            if kind == "audio":
                self.branches[kind] = AudioBranch([shape], num_classes)
            else:
                self.branches[kind] = VideoBranch(num_classes, channels, units, pretrained)
        if len(kinds) == 2:
            self.of_video = TimeAttention(AUDIO_WIDTH, VIDEO_WIDTH, attention_heads)
            self.of_audio = TimeAttention(VIDEO_WIDTH, AUDIO_WIDTH, attention_heads)
        if self.joint:
            self.head = nn.Linear(2 * BRANCH_WIDTH, num_classes)
            for branch in self.branches.values():
                del branch.head

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        maps = {kind: self._branch(kind).stage1(x) for kind, x in zip(self.kinds, inputs, strict=True)}
        if len(maps) == 2:
            maps = self.exchange(maps["audio"], maps["video"])
        pooled = {kind: self._branch(kind).stage2(maps[kind]).mean(dim=-1) for kind in self.kinds}
        if self.joint:
            scores: Tensor = self.head(torch.cat([pooled["audio"], pooled["video"]], dim=1))
            return scores[:, None]
        return torch.stack([self._branch(kind).head(pooled[kind]) for kind in self.kinds], dim=1)

    def exchange(self, audio: Tensor, video: Tensor) -> dict[str, Tensor]:
        """Both maps (B, D, T), each time step times the attention that all steps of the other map pay to it.

        On average over the steps that is (steps of the other) / (own steps): 10 for 15 frames beside 150 steps of
        sound, and 0.1 for the sound. The normalisation after the next convolution takes it up.
        """
        return {
            "audio": audio * self.of_audio(video, audio)[:, None],
            "video": video * self.of_video(audio, video)[:, None],
        }

    def modality_parameters(self) -> ModalityParameters:
        """A branch with its head, or all where it is `joint`; the attention between both is of no one modality."""
        return of_modules([[self]] if self.joint else [[self._branch(kind)] for kind in self.kinds])

    def description(self) -> Mapping[str, str]:
        """What result.json says of it; a `notice` stands with every number that comes of it."""
        scratch = any(isinstance(one, VideoBranch) and one.pretrained is None for one in self.branches.values())
        return {"notice": FROM_SCRATCH} if scratch else {}

    def _branch(self, kind: str) -> "AudioBranch | VideoBranch":
        branch = self.branches[kind]
        assert isinstance(branch, AudioBranch | VideoBranch)
        return branch


class VideoBranch(nn.Module):
    """Video (B, 3, N, H, W) to `stage1` (B, 64, N), to `stage2` (B, 128, N), whose mean over time goes to `head`."""

    def __init__(
        self, num_classes: int, channels: Sequence[int], units: Sequence[int], pretrained: str | Path | None
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.trunk = EfficientFace(channels, units)
        if pretrained is not None:
            self.trunk.load_weights(pretrained)
        self.over_time = nn.Sequential(
            temporal_block(channels[-1], VIDEO_WIDTH), temporal_block(VIDEO_WIDTH, VIDEO_WIDTH)
        )
        self.stage2 = nn.Sequential(
            temporal_block(VIDEO_WIDTH, BRANCH_WIDTH), temporal_block(BRANCH_WIDTH, BRANCH_WIDTH)
        )
        self.head = nn.Linear(BRANCH_WIDTH, num_classes)

    def stage1(self, video: Tensor) -> Tensor:
        frames = video.transpose(1, 2)
        features: Tensor = self.trunk(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        over_time: Tensor = self.over_time(features.transpose(1, 2))
        return over_time


class TimeAttention(nn.Module):
    """How much attention the time steps of one map pay to each step of another, in sum: `asking` (B, Q, T) and `asked`
    (B, K, S) to (B, S), which sums to T. The weights are averaged over the heads.
    """

    def __init__(self, asking: int, asked: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(asking, asking, bias=False)
        self.key = nn.Linear(asked, asking, bias=False)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        query = self.query(asking.mT).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, Q / heads)
        key = self.key(asked.mT).unflatten(2, (self.heads, -1)).transpose(1, 2)
        weights: Tensor = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return weights.mean(dim=1).sum(dim=1)


def _is_video(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[0] == 3 and not any(side % STRIDE for side in shape[2:])
