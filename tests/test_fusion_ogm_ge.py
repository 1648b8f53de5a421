"""OGM-GE against its coefficients as loops, its authors' numbers, and autograd; and its noise."""

import math

import pytest
import torch
from torch import nn

from golden.rivals import golden
from multimodal_loss import OGMGE, SumCrossEntropy
from test_fusion_tmc import draw

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def looped_coefficients(scores: list[list[list[float]]], target: list[int], alpha: float) -> list[float]:
    modalities, sums = len(scores[0]), []
    for m in range(modalities):
        shares = [math.exp(x[m][y]) / sum(math.exp(v) for v in x[m]) for x, y in zip(scores, target, strict=True)]
        sums.append(sum(shares))
    found = []
    for m in range(modalities):
        ratios = [sums[m] / sums[j] for j in range(modalities) if j != m]
        rho = sum(ratios) / len(ratios) if ratios else 0.0
        found.append(1 - math.tanh(alpha * rho) if rho > 1 else 1.0)
    return found


@pytest.mark.parametrize("modalities", [1, 2, 3, 5])
def test_each_modalitys_gradient_is_multiplied_by_its_coefficient(modalities: int) -> None:
    scores, target = draw(6, modalities, 4)
    fusion = OGMGE(4, modalities, alpha=0.4, noise=0.0)
    k = torch.tensor(looped_coefficients(scores.tolist(), target.tolist(), 0.4), dtype=torch.float64)
    assert (k < 1).any() or modalities == 1
    loss, plain = fusion(scores, target), SumCrossEntropy(4, modalities)(scores, target)
    torch.testing.assert_close(loss, plain, **EXACT)
    expected = torch.autograd.grad(plain, scores)[0] * k[:, None]
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], expected, **EXACT)


def test_equals_the_authors_numbers() -> None:
    case = golden("ogm_ge")
    fusion = OGMGE(2, 2, alpha=float(case["alpha"]), noise=0.0)
    torch.testing.assert_close(fusion(case["scores"], case["target"]), case["loss"], **EXACT)
    torch.testing.assert_close(fusion.coefficients(case["scores"], case["target"]), case["coefficient"], **EXACT)


def test_only_the_first_epochs_are_modulated() -> None:
    scores, target = draw(6, 2, 4)
    fusion = OGMGE(4, 2, modulated_epochs=3)
    fusion.begin_epoch(3, 6)
    assert (fusion.coefficients(scores, target) < 1).any()
    fusion.begin_epoch(4, 6)
    assert (fusion.coefficients(scores, target) == 1).all()
    weight = torch.randn(5, 5)
    assert not fusion._noise(weight).any()  # type: ignore[union-attr]


def networks() -> nn.ModuleList:
    torch.manual_seed(2)
    return nn.ModuleList(nn.Linear(200, 4) for _ in range(2)).double()


def parameters(of: nn.ModuleList) -> list[list[tuple[nn.Parameter, slice]]]:
    return [[(p, slice(None)) for p in network.parameters()] for network in of]


def test_noise_goes_to_weights_with_the_spread_of_their_gradient_before() -> None:
    """Drawn 400 times: its mean is the modulated gradient, its deviation that of the plain one. Biases get none."""
    x, target = torch.randn(2, 6, 200, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    with_noise, without = networks(), networks()
    scores = torch.stack([network(one) for network, one in zip(without, x, strict=True)], dim=1)
    fusion = OGMGE(4, 2, alpha=0.5)
    k = fusion.coefficients(scores, target)
    assert (k < 1).sum() == 1
    SumCrossEntropy(4, 2)(scores, target).backward()
    grads = []
    for _ in range(400):
        with_noise.zero_grad()
        scores = torch.stack([network(one) for network, one in zip(with_noise, x, strict=True)], dim=1)
        fusion.backward(fusion(scores, target), scores, target, parameters(with_noise))
        grads.append([network.weight.grad.clone() for network in with_noise])
    for m in range(2):
        plain, drawn = without[m].weight.grad, torch.stack([grad[m] for grad in grads])
        spread = plain.std()
        assert float((drawn.mean(0) - k[m] * plain).abs().max()) < 5 * float(spread) / 20
        assert float(drawn.sub(k[m] * plain).std()) == pytest.approx(float(spread), rel=0.01)
        torch.testing.assert_close(with_noise[m].bias.grad, k[m] * without[m].bias.grad, **EXACT)


def test_a_bias_gets_no_noise_where_modalities_are_stacked() -> None:
    """As DeepConvLSTM stacks them: a modality's bias is then (1, n), like the weight of a single input."""
    fusion, stacked = OGMGE(4, 2), torch.randn(2, 5)
    assert fusion._noise(stacked[:1]) is fusion._noise(stacked[0]) is fusion._noise(torch.randn(5, 1)) is None
    assert fusion._noise(torch.randn(2, 5, 3)[:1]) is not None


def test_noise_needs_the_parameters() -> None:
    scores, target = draw(6, 2, 4)
    fusion = OGMGE(4, 2)
    assert fusion.needs_modality_parameters and not OGMGE(4, 2, noise=0.0).needs_modality_parameters
    for given in (None, parameters(networks())[:1]):
        with pytest.raises(ValueError, match=r"OGMGE.backward needs modality_parameters: a list for each of the 2"):
            fusion.backward(fusion(scores, target), scores, target, given)
