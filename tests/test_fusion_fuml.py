"""FUML against its formulas as loops, and its authors' numbers."""

import math

import pytest
import torch

from golden.rivals import golden
from multimodal_loss import FUML
from test_fusion_tmc import draw

EXACT = {"rtol": 1e-12, "atol": 1e-12}
Row = list[float]


def credibility(m: Row) -> Row:
    return [(m[k] + 1 - max([v for i, v in enumerate(m) if i != k], default=0.0)) / 2 for k in range(len(m))]


def credibility_given(m: Row, y: int) -> Row:
    return [credibility(m)[k] if k == y else (m[k] + 1 - m[y]) / 2 for k in range(len(m))]


def entropy(q: float) -> float:
    return sum(-p * math.log(p) for p in (q, 1 - q) if p > 0)


def fused(memberships: list[Row], credibilities: list[Row]) -> Row:
    number, classes, exponents = len(memberships), len(memberships[0]), []
    for v, own in enumerate(memberships):
        uncertainty = sum(entropy(c) for c in credibilities[v]) / (classes * math.log(2))
        conflict = 0.0
        for j, other in enumerate(memberships):
            lengths = math.hypot(*own) * math.hypot(*other)
            cosine = sum(a * b for a, b in zip(own, other, strict=True)) / lengths if lengths else 0.0
            conflict += (1 - cosine) / (number - 1) if j != v else 0.0
        exponents.append(math.exp((1 - uncertainty) * (1 - conflict)))
    weights = [e / sum(exponents) for e in exponents]
    return [sum(w * m[k] for w, m in zip(weights, memberships, strict=True)) for k in range(classes)]


@pytest.mark.parametrize("norm", [2.0, 3.0])
@pytest.mark.parametrize(("modalities", "classes"), [(1, 3), (2, 2), (3, 5)])
def test_equals_its_formulas_written_as_loops(modalities: int, classes: int, norm: float) -> None:
    scores, target = draw(5, modalities, classes)
    fusion, total, probabilities = FUML(classes, modalities, norm=norm), 0.0, []
    for x, y in zip(scores.tolist(), target.tolist(), strict=True):
        lengths = [sum(abs(value) ** norm for value in row) ** (1 / norm) for row in x]
        memberships = [[max(value / length, 0.0) for value in row] for row, length in zip(x, lengths, strict=True)]
        given = [credibility_given(m, y) for m in memberships]
        given.append(credibility_given(fused(memberships, given), y))
        logs = [math.log(min(max(r if k == y else 1 - r, 1e-7), 1)) for row in given for k, r in enumerate(row)]
        total -= sum(logs) / len(scores)
        of_fused = credibility(fused(memberships, [credibility(m) for m in memberships]))
        probabilities.append([max(c, 1e-7) / sum(of_fused) for c in of_fused])
    assert fusion(scores, target).item() == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(
        fusion.probabilities(scores), torch.tensor(probabilities, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_equals_the_authors_numbers() -> None:
    case = golden("fuml")
    fusion, scores = FUML(2, 2), case["scores"].requires_grad_()
    loss = fusion(scores, case["target"])
    torch.testing.assert_close(loss, case["loss"], **EXACT)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], case["grad_scores"], **EXACT)
    expected = case["test_fused_credibility"]
    torch.testing.assert_close(fusion.logits(scores).exp(), expected.clamp(min=1e-7), **EXACT)


def test_scores_that_support_no_class_are_finite() -> None:
    scores = torch.zeros(3, 2, 4)
    scores[1] = -1
    scores[2, 0, 1] = 5
    scores.requires_grad_()
    fusion = FUML(4, 2)
    fusion(scores, torch.tensor([0, 1, 2])).backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    probabilities = fusion.probabilities(scores)
    assert probabilities[:2].tolist() == [[0.25] * 4] * 2 and probabilities[2].argmax() == 1


def test_memberships_that_round_above_1_are_finite() -> None:
    """Scores that support one class alone, in float32."""
    torch.manual_seed(0)
    target = torch.randint(3, (2000,))
    scores = 100 * torch.rand(2000, 1, 1).expand(-1, 3, 3) * torch.eye(3)[target][:, None]
    scores = (scores - 1e-3 * torch.rand(2000, 3, 3)).requires_grad_()
    unit = torch.nn.functional.normalize(scores.detach(), p=3, dim=2)
    assert (unit > 1).any()
    fusion = FUML(3, 3)
    fusion(scores, target).backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    assert torch.equal(fusion.probabilities(scores).argmax(1), target)
