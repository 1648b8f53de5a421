"""Blocks and the audio branch of Intermediate Attention (Chumachenko, Iosifidis and Gabbouj, ICPR 2022), as released.

A branch has two stages, between which Intermediate Attention exchanges weights over time; pooled over time, its 128
channels go to a Linear layer.
"""

from collections.abc import Sequence

from torch import nn

from multimodal_loss.errors import UserError

BRANCH_WIDTH = 128  # channels of either branch after its second stage


def audio_block(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, T) to (B, outputs, T - 3): the convolution is valid, and the pool, of two, moves by one."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel_size=3), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(2, stride=1)
    )


def temporal_block(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, T) to (B, outputs, T): the convolution over a clip's frames is padded, and nothing is pooled."""
    return nn.Sequential(nn.Conv1d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm1d(outputs), nn.ReLU())


class AudioBranch(nn.Module):
    """MFCC (B, F, T) to `stage1` (B, 128, T - 6), to `stage2` (B, 128, T - 12), whose mean over time goes to `head`.

    225,735 parameters for 10 coefficients and 7 classes.

    Raises:
        UserError: T, of `feature_shapes` [(F, T)], is not above 12.
    """

    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        super().__init__()
        ((features, time),) = feature_shapes
        if time <= 12:
            raise UserError(f"backbone intermediate_attention: sound of {time} time steps; it takes more than 12")
        self.stage1 = nn.Sequential(audio_block(features, 64), audio_block(64, 128))
        self.stage2 = nn.Sequential(audio_block(128, 256), audio_block(256, BRANCH_WIDTH))
        self.head = nn.Linear(BRANCH_WIDTH, num_classes)
