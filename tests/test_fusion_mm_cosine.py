"""MMCosine against its formula as loops, on scores and on features."""

import math

import pytest
import torch
from torch import Tensor, nn

from multimodal_loss import MMCosine, SumCrossEntropy
from multimodal_loss.backbones import MLP


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize(("modalities", "features"), [(1, None), (2, None), (3, 7)])
def test_equals_its_formula_written_as_loops(modalities: int, features: int | None) -> None:
    torch.manual_seed(0)
    fusion = MMCosine(4, modalities, scale=6.0, num_features=features).double()
    h, target = torch.randn(5, modalities, features or 4, dtype=torch.float64), torch.randint(4, (5,))
    z = [[6 * sum(cosine(x[m], fusion.weight[k, m].detach()) for m in range(modalities)) for k in range(4)] for x in h]
    losses = [math.log(sum(math.exp(v) for v in row)) - row[y] for row, y in zip(z, target.tolist(), strict=True)]
    torch.testing.assert_close(fusion.logits(h), torch.tensor(z, dtype=torch.float64))
    assert fusion(h, target).item() == pytest.approx(sum(losses) / 5, rel=1e-12)


def test_lengths_do_not_matter_and_another_width_is_refused() -> None:
    torch.manual_seed(0)
    fusion, h = MMCosine(4, 2, num_features=7), torch.randn(5, 2, 7)
    torch.testing.assert_close(fusion.logits(h * torch.tensor([100.0, 0.01])[:, None]), fusion.logits(h))
    with pytest.raises(ValueError, match=r"expects scores of shape \(batch, 2, 7\), got \(5, 2, 4\)"):
        fusion.logits(torch.randn(5, 2, 4))


def test_class_vectors_are_drawn_as_by_one_linear_layer() -> None:
    torch.manual_seed(5)
    fusion = MMCosine(4, 2)
    torch.manual_seed(5)
    assert torch.equal(fusion.weight.flatten(1), nn.Linear(8, 4, bias=False).weight)


@pytest.mark.parametrize("hidden", [[], [6]])
def test_a_backbones_cosine_head_is_at_its_features(hidden: list[int]) -> None:
    torch.manual_seed(0)
    network = MLP([(5,), (3,)], 4, hidden, "relu", cosine_scale=6.0).double()
    inputs = [torch.randn(7, width, dtype=torch.float64) for width in (5, 3)]
    scores = network(inputs)
    for m, layers in enumerate(network.modalities):
        h = layers[0](inputs[m]).relu() if hidden else inputs[m]
        expected = [[6 * cosine(x, w) for w in layers[-1].weight.detach()] for x in h.detach()]
        torch.testing.assert_close(scores[:, m], torch.tensor(expected, dtype=torch.float64))
    assert layers[-1].bias is None and network.affine_layers() is None
    SumCrossEntropy(4, 2)(scores, torch.arange(7) % 4).backward()
    assert all(p.grad is not None for p in network.parameters())
