"""Blocks and the audio branch of Intermediate Attention (Chumachenko, Iosifidis and Gabbouj, ICPR 2022), as released.

A branch has two stages, between which Intermediate Attention exchanges weights over time; pooled over time, its 128
channels go to a Linear layer. The audio branch is also a backbone of its own, for sound alone.
"""

from collections.abc import Sequence

from torch import Tensor, nn

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

    As a backbone: [MFCC] to scores (B, 1, C). 225,735 parameters for 10 coefficients and 7 classes.

    Args:
        feature_shapes: (F, T) of the only modality; T must be above 12.
        num_classes: C.

    Raises:
        UserError: another number of modalities, or samples of another shape.
    """

    def __init__(self, feature_shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        super().__init__()
        if len(feature_shapes) != 1 or len(feature_shapes[0]) != 2 or feature_shapes[0][1] <= 12:
            shapes = ", ".join(str(tuple(shape)) for shape in feature_shapes)
            raise UserError(
                f"backbone audio_branch: samples have shapes {shapes}; it takes one modality of shape (features, time) "
                "with more than 12 steps, such as dataset=ravdess dataset.modalities=[audio]"
            )
        self.stage1 = nn.Sequential(audio_block(feature_shapes[0][0], 64), audio_block(64, 128))
        self.stage2 = nn.Sequential(audio_block(128, 256), audio_block(256, BRANCH_WIDTH))
        self.head = nn.Linear(BRANCH_WIDTH, num_classes)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        (mfcc,) = inputs
        scores: Tensor = self.head(self.stage2(self.stage1(mfcc)).mean(dim=-1))
        return scores[:, None]
