"""TMC against Dempster's rule taken pair by pair, its loss by scipy, and its authors' numbers."""

import itertools

import pytest
import torch
from scipy.special import digamma, gammaln
from torch import Tensor

from golden.rivals import golden
from multimodal_loss import TMC

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def dempster(first: list[float], second: list[float]) -> list[float]:
    """Evidence from that of two: masses of every class and of "any class", combined, conflict divided out."""
    classes = len(first)

    def masses(evidence: list[float]) -> tuple[list[float], float]:
        strength = sum(evidence) + classes
        return [e / strength for e in evidence], classes / strength

    (b1, u1), (b2, u2) = masses(first), masses(second)
    conflict = sum(b1[i] * b2[j] for i in range(classes) for j in range(classes) if i != j)
    belief = [(b1[k] * b2[k] + b1[k] * u2 + b2[k] * u1) / (1 - conflict) for k in range(classes)]
    strength = classes / (u1 * u2 / (1 - conflict))
    return [b * strength for b in belief]


def evidential_loss(evidence: list[float], y: int, weight: float) -> float:
    alpha = [e + 1 for e in evidence]
    without = [1.0 if k == y else a for k, a in enumerate(alpha)]
    total = sum(without)
    divergence = gammaln(total) - gammaln(len(alpha)) - sum(gammaln(t) for t in without)
    divergence += sum((t - 1) * (digamma(t) - digamma(total)) for t in without)
    return float(digamma(sum(alpha)) - digamma(alpha[y]) + weight * divergence)


def draw(batch: int, modalities: int, classes: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(modalities)
    scores = 3 * torch.randn(batch, modalities, classes, dtype=torch.float64)
    return scores.requires_grad_(), torch.randint(classes, (batch,))


def evidence(x: Tensor) -> list[list[float]]:
    return [[float(torch.log1p(value.exp())) for value in row] for row in x.detach()]


@pytest.mark.parametrize(("modalities", "classes"), [(1, 3), (2, 2), (3, 5), (6, 4)])
@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.0), (7, 0.35), (20, 1.0), (900, 1.0)])
def test_equals_its_formulas_written_as_loops(modalities: int, classes: int, epoch: int, weight: float) -> None:
    scores, target = draw(4, modalities, classes)
    fusion = TMC(classes, modalities, annealing_epochs=20)
    fusion.begin_epoch(epoch, 4)
    total, strengths = 0.0, []
    for x, y in zip(scores, target.tolist(), strict=True):
        of_each = evidence(x)
        fused = of_each[0]
        for other in of_each[1:]:
            fused = dempster(fused, other)
        total += sum(evidential_loss(e, y, weight) for e in [*of_each, fused]) / len(scores)
        strengths.append([(e + 1) / (sum(fused) + classes) for e in fused])
    assert fusion(scores, target).item() == pytest.approx(total, rel=1e-11)
    torch.testing.assert_close(fusion.probabilities(scores), torch.tensor(strengths, dtype=torch.float64), **EXACT)


def test_equals_the_authors_numbers() -> None:
    case = golden("tmc")
    fusion, scores = TMC(2, 2), case["scores"].requires_grad_()
    fusion.begin_epoch(int(case["epoch"]), 7)
    loss = fusion(scores, case["target"])
    torch.testing.assert_close(loss, case["loss"], **EXACT)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], case["grad_scores"], **EXACT)
    torch.testing.assert_close(fusion.logits(scores).exp() - 1, case["fused_evidence"], **EXACT)


# (C, M), the logit of class 0 (0 for the others), y, and the loss by mpmath with 60 digits.
CERTAIN = [
    (18, 19, 5.0, 1, 172.7859370565945),
    (18, 19, 60.0, 1, 905.1802918761286),
    (18, 19, 110.0, 0, 48.17515765139284),
    (18, 19, 110.0, 1, 1226.094052511827),
    (18, 19, 200.0, 1, 1578.391054542322),
    (10, 6, 10000.0, 1, 802.8733936415213),
    (10, 6, 10000.0, 0, 9.458767617615712),
]


@pytest.mark.parametrize(("classes", "modalities", "logit", "y", "expected"), CERTAIN)
def test_evidence_as_large_as_it_gets(classes: int, modalities: int, logit: float, y: int, expected: float) -> None:
    """Of many sure modalities fused evidence is 1e16 and more, where lgamma(S) and its like cancel altogether."""
    scores = torch.zeros(1, modalities, classes, dtype=torch.float64)
    scores[..., 0] = logit
    fusion = TMC(classes, modalities, annealing_epochs=1)
    fusion.begin_epoch(1, 1)
    loss = fusion(scores.requires_grad_(), torch.tensor([y]))
    assert loss.item() == pytest.approx(expected, rel=1e-11)
    moved = [fusion(scores + step * (scores == logit), torch.tensor([y])) for step in (-0.01, 0.01)]
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[..., 0].sum().item() == pytest.approx((moved[1] - moved[0]).item() / 0.02, rel=1e-4, abs=1e-6)


def test_does_not_depend_on_the_order_of_the_modalities() -> None:
    scores, target = draw(5, 3, 4)
    fusion = TMC(4, 3)
    fusion.begin_epoch(30, 5)
    for order in itertools.permutations(range(3)):
        moved = scores[:, list(order)]
        torch.testing.assert_close(fusion(moved, target), fusion(scores, target), **EXACT)
        torch.testing.assert_close(fusion.logits(moved), fusion.logits(scores), **EXACT)


def test_a_weight_is_the_share_of_certainty() -> None:
    scores = torch.tensor([[[5.0, -9.0], [-9.0, -9.0], [5.0, 5.0]]])
    (weights,) = TMC(2, 3).modality_weights(scores)
    certainty = [1 - 2 / (sum(e) + 2) for e in evidence(scores[0])]
    assert weights.tolist() == pytest.approx([c / sum(certainty) for c in certainty], rel=1e-5)
    assert TMC(2, 3).modality_weights(torch.full((1, 3, 2), -1e4)).isfinite().all()  # type: ignore[union-attr]
