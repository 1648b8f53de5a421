"""ECML against its formulas as loops, its authors' numbers, and the orders of its averages."""

import pytest
import torch
from torch import Tensor

from golden.rivals import golden
from multimodal_loss import ECML
from test_fusion_tmc import draw, evidence, evidential_loss

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def aggregated(of_each: list[list[float]], aggregation: str) -> list[float]:
    if aggregation == "by_uncertainty":
        of_each = sorted(of_each, key=lambda e: len(e) / (sum(e) + len(e)), reverse=True)
    if aggregation == "mean":
        return [sum(e) / len(of_each) for e in zip(*of_each, strict=True)]
    fused = of_each[0]
    for other in of_each[1:]:
        fused = [(a + b) / 2 for a, b in zip(fused, other, strict=True)]
    return fused


def conflict(of_each: list[list[float]]) -> float:
    if len(of_each) == 1:
        return 0.0
    classes, total = len(of_each[0]), 0.0
    opinions = [([(e + 1) / (sum(own) + classes) for e in own], 1 - classes / (sum(own) + classes)) for own in of_each]
    for p, c in opinions:
        for q, d in opinions:
            total += c * d * sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    return total / (len(of_each) - 1)


@pytest.mark.parametrize("aggregation", ["released", "mean", "by_uncertainty"])
@pytest.mark.parametrize(("modalities", "classes"), [(1, 3), (2, 2), (4, 5)])
def test_equals_its_formulas_written_as_loops(modalities: int, classes: int, aggregation: str) -> None:
    scores, target = draw(5, modalities, classes)
    fusion = ECML(classes, modalities, annealing_epochs=20, gamma=0.7, aggregation=aggregation)
    fusion.begin_epoch(7, 5)
    total, probabilities = 0.0, []
    for x, y in zip(scores, target.tolist(), strict=True):
        of_each = evidence(x)
        fused = aggregated(of_each, aggregation)
        losses = [evidential_loss(e, y, 7 / 20) for e in [*of_each, fused]]
        total += (sum(losses) / (modalities + 1) + 0.7 * conflict(of_each)) / len(scores)
        probabilities.append([(e + 1) / (sum(fused) + classes) for e in fused])
    assert fusion(scores, target).item() == pytest.approx(total, rel=1e-11)
    torch.testing.assert_close(fusion.probabilities(scores), torch.tensor(probabilities, dtype=torch.float64), **EXACT)


def test_equals_the_authors_numbers() -> None:
    case = golden("ecml")
    fusion, scores = ECML(2, 2), case["scores"].requires_grad_()
    fusion.begin_epoch(int(case["epoch"]), 7)
    loss = fusion(scores, case["target"])
    torch.testing.assert_close(loss, case["loss"], **EXACT)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], case["grad_scores"], **EXACT)
    torch.testing.assert_close(fusion.logits(scores).exp() - 1, case["fused_evidence"], **EXACT)


@pytest.mark.parametrize(("aggregation", "depends"), [("released", True), ("mean", False), ("by_uncertainty", False)])
def test_the_order_of_the_modalities_matters_as_released_alone(aggregation: str, depends: bool) -> None:
    scores, target = draw(5, 3, 4)
    fusion = ECML(4, 3, aggregation=aggregation)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return fusion(x, target), fusion.logits(x)

    moved = [torch.allclose(a, b, rtol=1e-10) for a, b in zip(both(scores), both(scores[:, [2, 0, 1]]), strict=True)]
    assert moved == [not depends] * 2
