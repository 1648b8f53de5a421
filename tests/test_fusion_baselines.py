"""SUM, weighted SUM and NN by hand; SoftTriple and ProxyAnchor against pytorch-metric-learning."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ProxyAnchorLoss, SoftTripleLoss
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import Tensor, nn

from multimodal_loss import (
    ConcatenationCrossEntropy,
    ProxyAnchor,
    SoftTriple,
    SumCrossEntropy,
    Unimodal,
    WeightedSumCrossEntropy,
)
from multimodal_loss.fusion import soft_triple
from multimodal_loss.fusion.proxies import as_rows

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = {
    "batch": st.integers(1, 9),
    "modalities": st.integers(1, 3),
    "classes": st.integers(1, 5),
    "seed": st.integers(0, 1000),
}


def draw(batch: int, modalities: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    scores = (2 * torch.randn(batch, modalities, classes, dtype=torch.float64)).softmax(dim=-1).requires_grad_()
    return scores, torch.randint(classes, (batch,))


def looped_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    losses = [-torch.log(z[y].exp() / sum(value.exp() for value in z)) for z, y in zip(logits, target, strict=True)]
    return torch.stack(losses).mean()


def test_unimodal_is_cross_entropy_on_the_only_scores() -> None:
    scores, target = draw(6, 1, 4)
    torch.testing.assert_close(Unimodal(4)(scores, target), looped_cross_entropy(scores[:, 0], target), **EXACT)


def test_sum_adds_the_modalities() -> None:
    scores, target = draw(6, 3, 4)
    expected = looped_cross_entropy(scores[:, 0] + scores[:, 1] + scores[:, 2], target)
    torch.testing.assert_close(SumCrossEntropy(4, 3)(scores, target), expected, **EXACT)


def test_a_modality_of_a_sum_weighs_what_it_adds_to_the_predicted_class() -> None:
    scores, _ = draw(50, 3, 4)
    fusion = SumCrossEntropy(4, 3)
    weights = fusion.modality_weights(scores)
    assert weights is not None
    for sample, found in zip(scores.tolist(), weights.tolist(), strict=True):
        totals = [sum(one[c] for one in sample) for c in range(4)]
        predicted = totals.index(max(totals))
        added = [max(0.0, one[predicted] - sum(one) / 4) for one in sample]
        assert found == pytest.approx([one / sum(added) for one in added], rel=1e-10)
    torch.testing.assert_close(fusion.modality_weights(scores + torch.tensor([5.0, 0, -2])[:, None]), weights)
    assert SumCrossEntropy(4, 2).modality_weights(torch.zeros(1, 2, 4)).tolist() == [[0.5, 0.5]]  # type: ignore[union-attr]


@pytest.mark.parametrize(("modalities", "classes", "least"), [(3, 2, 0.0486), (2, 7, 0.594), (2, 34, 1.699)])
def test_sum_of_probabilities_cannot_fall_below_its_floor(modalities: int, classes: int, least: float) -> None:
    target = torch.arange(classes)
    perfect = F.one_hot(target, classes).float()[:, None].expand(-1, modalities, -1)
    assert float(SumCrossEntropy(classes, modalities)(perfect, target)) == pytest.approx(least, abs=1e-3)


def test_weighted_sum_weighs_the_modalities() -> None:
    scores, target = draw(6, 2, 4)
    fusion = WeightedSumCrossEntropy(4, 2, weights=[0.3, 0.7])
    expected = looped_cross_entropy(0.3 * scores[:, 0] + 0.7 * scores[:, 1], target)
    torch.testing.assert_close(fusion(scores, target), expected, **EXACT)
    zero = WeightedSumCrossEntropy(4, 2, weights=[0, 1])
    assert torch.equal(zero.logits(scores), scores[:, 1])
    torch.testing.assert_close(WeightedSumCrossEntropy(4, 2).logits(scores), scores.mean(dim=1))


def test_neural_is_one_linear_layer_over_the_concatenation_and_draws_nothing_else() -> None:
    scores, target = draw(6, 3, 4)
    torch.manual_seed(3)
    fusion = ConcatenationCrossEntropy(4, 3)
    after = torch.rand(2)
    torch.manual_seed(3)
    layer = nn.Linear(12, 4)
    assert torch.equal(after, torch.rand(2))
    assert torch.equal(fusion.head.weight, layer.weight) and torch.equal(fusion.head.bias, layer.bias)
    concatenated = torch.cat([scores[:, 0], scores[:, 1], scores[:, 2]], dim=1)
    expected = looped_cross_entropy(layer.double()(concatenated), target)
    torch.testing.assert_close(fusion.double()(scores, target), expected, **EXACT)


@settings(max_examples=30, deadline=None)
@given(**SHAPES, per_class=st.integers(2, 4), tau=st.sampled_from([0.0, 0.2]))
def test_soft_triple_equals_pytorch_metric_learning(
    batch: int, modalities: int, classes: int, seed: int, per_class: int, tau: float
) -> None:
    scores, target = draw(batch, modalities, classes, seed)
    fusion = SoftTriple(classes, modalities, per_class, tau=tau).double()
    regularizer = SparseCentersRegularizer(classes, per_class) if tau else None
    oracle = SoftTripleLoss(
        classes, modalities * classes, per_class, weight_regularizer=regularizer, weight_reg_weight=tau
    ).double()
    with torch.no_grad():
        oracle.fc.copy_(as_rows(fusion.proxies).t())
    with pytest.MonkeyPatch.context() as patch:
        # The original's 1e-5, which pytorch-metric-learning has made a number close to 0.
        patch.setattr(soft_triple, "ROOT_EPSILON", 0.0)
        got = fusion(scores, target)
    expected = oracle(scores.flatten(1), target)
    torch.testing.assert_close(got, expected, **EXACT)
    scores_grad, proxies_grad = torch.autograd.grad(got, [scores, fusion.proxies])
    expected_scores, expected_proxies = torch.autograd.grad(expected, [scores, oracle.fc])
    torch.testing.assert_close(scores_grad, expected_scores, **EXACT)
    torch.testing.assert_close(as_rows(proxies_grad).t(), expected_proxies, **EXACT)
    torch.testing.assert_close(fusion.logits(scores), 20 * oracle.get_logits(scores.flatten(1)), **EXACT)


def test_soft_triple_regulariser_is_that_of_the_original() -> None:
    scores, target = draw(4, 2, 3)
    plain, regularised = (SoftTriple(3, 2, 4, tau=tau).double() for tau in (0.0, 0.2))
    plain.load_state_dict(regularised.state_dict())
    unit = F.normalize(regularised.proxies.flatten(2), dim=2)
    pairs = [(c, i, j) for c in range(3) for i in range(4) for j in range(i + 1, 4)]
    spread = sum(torch.sqrt(2 + 1e-5 - 2 * (unit[c, i] @ unit[c, j])) for c, i, j in pairs) / (3 * 4 * 3)
    torch.testing.assert_close(regularised(scores, target), plain(scores, target) + 0.2 * spread, **EXACT)


def test_soft_triple_with_equal_proxies_has_finite_gradients() -> None:
    scores, target = draw(4, 2, 3)
    fusion = SoftTriple(3, 2, 4, tau=0.2)
    with torch.no_grad():
        fusion.proxies[:, 1] = fusion.proxies[:, 0]
    fusion(scores.float(), target).backward()
    assert fusion.proxies.grad is not None and fusion.proxies.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(**SHAPES, alpha=st.sampled_from([1.0, 32.0]), margin=st.sampled_from([0.0, 0.1]))
def test_proxy_anchor_equals_pytorch_metric_learning(
    batch: int, modalities: int, classes: int, seed: int, alpha: float, margin: float
) -> None:
    scores, target = draw(batch, modalities, classes, seed)
    fusion = ProxyAnchor(classes, modalities, alpha, margin).double()
    oracle = ProxyAnchorLoss(classes, modalities * classes, margin=margin, alpha=alpha).double()
    with torch.no_grad():
        oracle.proxies.copy_(fusion.proxies.flatten(1))
    got, expected = fusion(scores, target), oracle(scores.flatten(1), target)
    torch.testing.assert_close(got, expected, **EXACT)
    scores_grad, proxies_grad = torch.autograd.grad(got, [scores, fusion.proxies])
    expected_scores, expected_proxies = torch.autograd.grad(expected, [scores, oracle.proxies])
    torch.testing.assert_close(scores_grad, expected_scores, **EXACT)
    torch.testing.assert_close(proxies_grad.flatten(1), expected_proxies, **EXACT)
    torch.testing.assert_close(fusion.logits(scores), alpha * oracle.get_logits(scores.flatten(1)), **EXACT)


def test_proxy_anchor_equals_its_formula_written_as_loops() -> None:
    scores, target = draw(7, 2, 3)
    fusion = ProxyAnchor(3, 2).double()
    x = F.normalize(scores.flatten(1), dim=1)
    p = F.normalize(fusion.proxies.flatten(1), dim=1)
    present = sorted(set(target.tolist()))
    pull = sum(
        torch.log(1 + sum((-32 * (x[b] @ p[c] - 0.1)).exp() for b in range(7) if target[b] == c)) for c in present
    ) / len(present)
    push = sum(
        torch.log(1 + sum((32 * (x[b] @ p[c] + 0.1)).exp() for b in range(7) if target[b] != c)) for c in range(3)
    )
    torch.testing.assert_close(fusion(scores, target), pull + push / 3, **EXACT)


@pytest.mark.parametrize("seed", [0, 7])
def test_proxies_start_as_in_pytorch_metric_learning(seed: int) -> None:
    torch.manual_seed(seed)
    ours = SoftTriple(3, 2, 5)
    torch.manual_seed(seed)
    assert torch.equal(as_rows(ours.proxies).t(), SoftTripleLoss(3, 6, 5).fc)
    torch.manual_seed(seed)
    anchor = ProxyAnchor(3, 2)
    torch.manual_seed(seed)
    assert torch.equal(anchor.proxies.flatten(1), ProxyAnchorLoss(3, 6).proxies)


@pytest.mark.parametrize("kind", [SoftTriple, ProxyAnchor])
@pytest.mark.parametrize("scores", ["one_hot", "equal", "zero"])
def test_float32_stays_finite(kind: type[SoftTriple] | type[ProxyAnchor], scores: str) -> None:
    torch.manual_seed(0)
    fusion = kind(34, 2)
    x = {
        "one_hot": F.one_hot(torch.randint(34, (40, 2)), 34).float(),
        "equal": torch.full((40, 2, 34), 1 / 34),
        "zero": torch.zeros(40, 2, 34),
    }[scores].requires_grad_()
    loss = fusion(x, torch.zeros(40, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()
    assert fusion.proxies.grad is not None and fusion.proxies.grad.isfinite().all()
