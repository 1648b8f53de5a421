"""MOMA against a literal loop over samples and modules, in float64: values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multimodal_loss.backbones import MOMA, moma
from multimodal_loss.backbones.moma import attend
from multimodal_loss.errors import UserError


def unit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    length = torch.sqrt(x * x + y * y)
    return x / length, y / length


def literal_value(own: list[tuple[Tensor, Tensor]], query: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What one query module gets: the own modules' vectors weighed by the softmax of their cosines with it."""
    weights = [torch.exp(x * query[0] + y * query[1]) for x, y in own]
    total = torch.stack(weights).sum()
    x = torch.stack([w * v[0] for w, v in zip(weights, own, strict=True)]).sum() / total
    y = torch.stack([w * v[1] for w, v in zip(weights, own, strict=True)]).sum() / total
    return x, y


def literal_scores(network: MOMA, inputs: list[Tensor]) -> Tensor:
    """MOMA as its description says, one sample and one module at a time."""
    samples = []
    for b in range(len(inputs[0])):
        vectors = []
        for m, x in enumerate(inputs):
            weight = network.coordinates[m].weight
            modules = len(weight) // 2
            raw = [torch.dot(row, x[b]) for row in weight]
            vectors.append([unit(raw[i], raw[modules + i]) for i in range(modules)])
        scores = []
        for m, own in enumerate(vectors):
            others = [v for n, v in enumerate(vectors) if n != m] or [own]
            means = []
            for axis in (0, 1):
                for j in range(len(own)):
                    means.append(torch.stack([literal_value(own, other[j])[axis] for other in others]).mean())
            h = torch.stack(means)
            linear = [layer for layer in network.heads[m] if isinstance(layer, torch.nn.Linear)]
            for layer in linear[:-1]:
                h = (layer.weight @ h + layer.bias).clamp(min=0)
            scores.append(linear[-1].weight @ h + linear[-1].bias)
        samples.append(torch.stack(scores))
    return torch.stack(samples)


@pytest.mark.parametrize("widths", [(5,), (7, 4), (3, 6, 2)])
def test_equals_the_literal_loop(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = MOMA([(width,) for width in widths], num_classes=3, modules=16).double()
    inputs = [torch.randn(4, width, dtype=torch.float64, requires_grad=True) for width in widths]
    leaves = [*inputs, *network.parameters()]
    scores, expected = network(inputs), literal_scores(network, inputs)
    assert scores.shape == (4, len(widths), 3)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(scores)
    for ours, theirs in zip(
        torch.autograd.grad((scores * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def softmax_attention(angles: Tensor, queries: Tensor) -> Tensor:
    """(B, I), (B, J) -> (B, 2 J)."""
    weights = torch.cos(angles[:, :, None] - queries[:, None, :]).softmax(dim=1)
    return torch.cat([torch.einsum("bi,bij->bj", f(angles), weights) for f in (torch.cos, torch.sin)], dim=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2**19]))
def test_attention_is_the_softmax_of_cosines_in_both_directions(
    seed: int, firsts: int, seconds: int, block: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = 2 * math.pi * torch.rand(3, firsts, generator=generator, dtype=torch.float64)
    b = 2 * math.pi * torch.rand(3, seconds, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moma, "CPU_BLOCK", block)
        of_first, of_second = attend(*(torch.stack([angle.cos(), angle.sin()], dim=1) for angle in (a, b)))
    torch.testing.assert_close(of_first.flatten(1), softmax_attention(a, b), rtol=0, atol=1e-13)
    torch.testing.assert_close(of_second.flatten(1), softmax_attention(b, a), rtol=0, atol=1e-13)


def test_gradcheck_of_attention() -> None:
    torch.manual_seed(1)
    first, second = (torch.randn(3, 2, n, dtype=torch.float64, requires_grad=True) for n in (4, 5))
    assert torch.autograd.gradcheck(attend, (first, second))


@pytest.mark.parametrize("zeros", [1, 32])
def test_a_zero_vector_counts_with_a_cosine_of_zero(zeros: int) -> None:
    torch.manual_seed(0)
    angles = torch.rand(3, 32)
    values = torch.stack([angles.cos(), angles.sin()], dim=1)
    values[:, :, :zeros] = 0
    got, _ = attend(values, torch.stack([angles.sin(), angles.cos()], dim=1))
    weights = (values.mT @ torch.stack([angles.sin(), angles.cos()], dim=1)).softmax(dim=1)
    torch.testing.assert_close(got, values @ weights)
    assert zeros < 32 or not got.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_network_is_close_to_the_same_one_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = MOMA([(5,), (4,)], 3, modules=16)
    inputs = [torch.randn(6, 5), torch.randn(6, 4)]
    inputs[0][1] = 0
    expected = network(inputs)
    with torch.autocast("cpu", dtype=dtype):
        by_autocast = network(inputs)
    half = network.to(dtype)([x.to(dtype) for x in inputs])
    half.sum().backward()
    assert half.dtype == dtype
    for got in (by_autocast, half):
        torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_sample_of_zeros_gives_finite_scores_and_gradients() -> None:
    """The original divides zero by zero there."""
    torch.manual_seed(0)
    network = MOMA([(5,), (4,)], 3, modules=16)
    inputs = [torch.randn(3, 5), torch.randn(3, 4)]
    inputs[0][1] = 0
    scores = network(inputs)
    scores.square().sum().backward()
    assert scores.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_sample_does_not_see_the_others_of_its_batch() -> None:
    torch.manual_seed(0)
    network = MOMA([(5,), (4,)], 3, modules=16).double()
    inputs = [torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)]
    alone = torch.cat([network([x[i : i + 1] for x in inputs]) for i in range(6)])
    torch.testing.assert_close(network(inputs), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("hidden", [[16], [32, 16], [64, 32, 16], [128, 64, 32, 16]])
def test_widths_of_a_head(hidden: list[int]) -> None:
    network = MOMA([(10,), (10,)], 34, modules=hidden[0])
    assert [layer.out_features for layer in network.heads[0] if isinstance(layer, torch.nn.Linear)] == [*hidden, 34]
    assert all(layer.bias is None for layer in network.coordinates)


def test_parameters_of_a_head_of_64_modules_and_34_classes() -> None:
    assert sum(p.numel() for p in MOMA([(10,), (10,)], 34, 64).heads[0].parameters()) == 11_442


@pytest.mark.parametrize("modules", [8, 0, True, 32.5])
def test_a_bad_number_of_modules_is_a_user_error(modules: int) -> None:
    with pytest.raises(UserError, match="modules"):
        MOMA([(10,), (10,)], 3, modules)


def test_training_after_inference_mode() -> None:
    """What attention keeps between calls must not be bound to the mode it was made in."""
    network = MOMA([(6,), (5,)], 3, modules=16)
    inputs = [torch.randn(4, 6), torch.randn(4, 5)]
    with torch.inference_mode():
        network(inputs)
    network(inputs).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
