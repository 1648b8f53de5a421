"""The blocks of Intermediate Attention and its audio branch against loops in float64, and its published counts."""

import pytest
import torch
from torch import Tensor, nn

from multimodal_loss.backbones import IntermediateAttention
from multimodal_loss.backbones.intermediate_attention_blocks import AudioBranch, audio_block, temporal_block
from multimodal_loss.errors import UserError


def literal_convolution(layer: nn.Conv1d, x: Tensor, padding: int) -> Tensor:
    """(B, I, T) to (B, O, T + 2 * padding - 2), one output at a time."""
    assert layer.bias is not None
    samples, channels, time = x.shape
    padded = torch.zeros(samples, channels, time + 2 * padding, dtype=x.dtype)
    padded[:, :, padding : padding + time] = x
    steps = []
    for t in range(padded.shape[2] - 2):
        window = padded[:, :, t : t + 3]
        steps.append(torch.stack([(window * w).sum((1, 2)) for w in layer.weight], dim=1) + layer.bias)
    return torch.stack(steps, dim=2)


def literal_normalisation(layer: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Of a batch that is trained on: each channel by its mean and biased variance over samples and time."""
    channels = []
    for c in range(x.shape[1]):
        values = x[:, c]
        mean = values.mean()
        variance = ((values - mean) ** 2).mean()
        channels.append(layer.weight[c] * (values - mean) / torch.sqrt(variance + 1e-5) + layer.bias[c])
    return torch.stack(channels, dim=1)


def literal_pool(x: Tensor) -> Tensor:
    """The larger of every two neighbours in time."""
    return torch.stack([torch.maximum(x[..., t], x[..., t + 1]) for t in range(x.shape[-1] - 1)], dim=-1)


def literal_block(block: nn.Sequential, x: Tensor, padding: int, pooled: bool) -> Tensor:
    convolution, normalisation = block[0], block[1]
    assert isinstance(convolution, nn.Conv1d) and isinstance(normalisation, nn.BatchNorm1d)
    x = literal_normalisation(normalisation, literal_convolution(convolution, x, padding)).clamp(min=0)
    return literal_pool(x) if pooled else x


@pytest.mark.parametrize("padding, pooled", [(0, True), (1, False)])
def test_blocks_equal_loops(padding: int, pooled: bool) -> None:
    torch.manual_seed(0)
    block = (audio_block if pooled else temporal_block)(3, 4).double()
    nn.init.normal_(block[1].weight)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(block(x), literal_block(block, x, padding, pooled), rtol=1e-10, atol=1e-12)


def test_branch_alone_equals_loops() -> None:
    torch.manual_seed(0)
    network = IntermediateAttention([(3, 15)], num_classes=4).double()
    branch = network.branches["audio"]
    assert isinstance(branch, AudioBranch)
    x = torch.randn(2, 3, 15, dtype=torch.float64)
    expected = x
    for block in [*branch.stage1, *branch.stage2]:
        assert isinstance(block, nn.Sequential)
        expected = literal_block(block, expected, padding=0, pooled=True)
    expected = sum(expected[..., t] for t in range(3)) / 3 @ branch.head.weight.T + branch.head.bias
    torch.testing.assert_close(network([x]), expected[:, None], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("classes, parameters", [(7, 225_735), (8, 225_864)])
def test_parameters_and_shapes_are_the_released_codes(classes: int, parameters: int) -> None:
    branch = AudioBranch([(10, 156)], classes)
    assert sum(p.numel() for p in branch.parameters()) == parameters
    first = branch.stage1(torch.zeros(2, 10, 156))
    assert (first.shape, branch.stage2(first).shape) == ((2, 128, 150), (2, 128, 144))


def test_too_short_a_sound_is_refused() -> None:
    with pytest.raises(UserError, match="sound of 12 time steps; it takes more"):
        AudioBranch([(10, 12)], 7)
