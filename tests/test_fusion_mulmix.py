"""Mulmix against its formula over all listed candidates, by whichever way it computes."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multimodal_loss import Mulmix
from multimodal_loss.fusion import mulmix, mulmix_subsets

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def subsets(modalities: int) -> list[tuple[int, ...]]:
    """In the order of the candidates: by the number whose binary digits say which modalities are in."""
    found = [s for size in range(1, modalities + 1) for s in itertools.combinations(range(modalities), size)]
    return sorted(found, key=lambda members: sum(2**m for m in members))


def looped_losses(fusion: Mulmix, scores: Tensor, beta: float) -> Tensor:
    """L^y (B, C), summed over the candidates, with explicit products over the other candidates."""
    rows = []
    for sample in scores:
        log_p = []
        for number, members in enumerate(subsets(fusion.num_modalities)):
            if fusion.candidates == "heads":
                logits = fusion.heads[number](torch.cat([sample[m] for m in members]))
            else:
                logits = sum(sample[m] for m in members)
                logits = logits / len(members) if fusion.candidates == "mean" else logits
            log_p.append(logits - logits.exp().sum().log())
        row = []
        for y in range(fusion.num_classes):
            total = torch.zeros((), dtype=scores.dtype)
            for c in range(len(log_p)):
                doubts = [1 - min(math.exp(other[y].item()), 1 - 1e-6) for j, other in enumerate(log_p) if j != c]
                q = math.prod(doubts) ** (beta / max(len(doubts), 1))
                total = total - q * log_p[c][y]
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def draw(modalities: int, classes: int, batch: int = 3, seed: int = 0, **options: Any) -> tuple[Mulmix, Tensor, Tensor]:
    torch.manual_seed(seed)
    fusion = Mulmix(classes, modalities, **options).double()
    scores = 2 * torch.randn(batch, modalities, classes, dtype=torch.float64)
    return fusion, scores.requires_grad_(), torch.randint(classes, (batch,))


def assert_equal(fusion: Mulmix, scores: Tensor, target: Tensor, losses: Tensor) -> None:
    torch.testing.assert_close(fusion.logits(scores), -losses, **EXACT)
    expected, got = losses.gather(1, target[:, None]).mean(), fusion(scores, target)
    torch.testing.assert_close(got, expected, **EXACT)
    inputs = [scores, *fusion.parameters()]
    wanted = torch.autograd.grad(expected, inputs)
    for a, b in zip(torch.autograd.grad(got, inputs), wanted, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@settings(max_examples=40, deadline=None)
@given(
    modalities=st.integers(1, 4),
    classes=st.integers(1, 4),
    batch=st.integers(1, 3),
    beta=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    candidates=st.sampled_from(["sum", "sum in blocks", "mean", "heads"]),
    seed=st.integers(0, 1000),
)
def test_equals_the_formula_over_listed_candidates(
    modalities: int, classes: int, batch: int, beta: float, candidates: str, seed: int
) -> None:
    options = {"beta": beta, "candidate_reduction": "sum"}
    with pytest.MonkeyPatch.context() as patch:
        if candidates == "sum in blocks":
            patch.setattr(mulmix, "MAX_ENUMERATED_SUMS", 0)
        kind = candidates.split()[0]
        fusion, scores, target = draw(modalities, classes, batch, seed, candidates=kind, **options)
        assert_equal(fusion, scores, target, looped_losses(fusion, scores, beta))


def enumerated_losses(scores: Tensor, beta: float) -> Tensor:
    """L^y (B, C) over all subset sums, for more candidates than loops can take."""
    codes = torch.arange(1, 2 ** scores.shape[1])
    members = ((codes[:, None] >> torch.arange(scores.shape[1])) & 1).to(scores.dtype)
    log_p = torch.einsum("nm,bmc->nbc", members, scores).log_softmax(dim=2)
    doubt = torch.log(1 - log_p.detach().exp().clamp(max=1 - 1e-6))
    q = (beta / (len(codes) - 1) * (doubt.sum(dim=0) - doubt)).exp()
    return -(q * log_p).sum(dim=0)


@pytest.mark.parametrize(("modalities", "block"), [(7, 2**16), (7, 16), (10, 2**16), (11, 2**10), (14, 2**16)])
def test_many_modalities_equal_enumeration(modalities: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mulmix_subsets, "CPU_BLOCK", block)
    fusion, scores, target = draw(modalities, 3, batch=5)
    candidates = 2**modalities - 1
    assert_equal(fusion, scores, target, enumerated_losses(scores, fusion.beta) / candidates)


def test_nineteen_modalities_equal_enumeration() -> None:
    fusion, scores, target = draw(19, 3, batch=1)
    losses = enumerated_losses(scores, fusion.beta) / (2**19 - 1)
    assert_equal(fusion, scores, target, losses)


def test_gradcheck_with_the_factor_held_still() -> None:
    for modalities in (3, 7):
        fusion, scores, target = draw(modalities, 3, beta=0.0)
        assert torch.autograd.gradcheck(lambda x, f=fusion, y=target: f(x, y), (scores,))


def test_reduction_over_candidates() -> None:
    for modalities, auto in ((3, "sum"), (4, "sum"), (5, "mean"), (8, "mean")):
        values = {}
        for reduction in ("auto", "sum", "mean"):
            fusion, scores, target = draw(modalities, 3, candidate_reduction=reduction)
            values[reduction] = fusion(scores, target)
        torch.testing.assert_close(values["sum"], values["mean"] * (2**modalities - 1))
        assert values["auto"] == values[auto]


def test_prediction_is_the_class_with_the_least_loss() -> None:
    fusion, scores, _ = draw(3, 4, batch=20)
    losses = torch.stack(
        [torch.stack([fusion(sample[None], torch.tensor([y])) for y in range(4)]) for sample in scores]
    )
    assert torch.equal(fusion.probabilities(scores).argmax(dim=1), losses.argmin(dim=1))
    torch.testing.assert_close(fusion.probabilities(scores), (-losses).softmax(dim=1))


@pytest.mark.parametrize("modalities", [2, 3, 8, 19])
def test_float32_stays_finite_on_certain_and_contradictory_predictions(modalities: int) -> None:
    classes = 5
    certain = torch.nn.functional.one_hot(torch.arange(modalities) % classes, classes).float()
    agreed = torch.nn.functional.one_hot(torch.zeros(modalities, dtype=torch.int64), classes).float()
    scores = torch.stack([certain, agreed, torch.full_like(certain, 1 / classes)]).requires_grad_()
    fusion = Mulmix(classes, modalities)
    loss = fusion(scores, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite() and scores.grad is not None and scores.grad.isfinite().all()
    assert fusion.logits(scores).isfinite().all()


def test_wide_logits_stay_finite_in_blocks() -> None:
    scores = (1e4 * torch.randn(4, 9, 3)).requires_grad_()
    fusion = Mulmix(3, 9)
    loss = fusion(scores, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite() and scores.grad is not None and scores.grad.isfinite().all()


def far_apart(modalities: int, by: float, classes: int = 3) -> Tensor:
    """Scores (2, M, C): each half of the modalities is `by` sure of another class, and two are sure of different ones.

    The first sample is of candidates whose two parts contradict each other, up to M / 2 times `by`.
    """
    scores = torch.zeros(2, modalities, classes, dtype=torch.float64)
    scores[0, :, 2] = scores[0, : modalities // 2, 1] = scores[0, modalities // 2 :, 0] = -by
    scores[1, :2] = torch.tensor([[0, -200, -100], [-150, 0, 0]]) * by / 100
    return scores.requires_grad_()


@pytest.mark.parametrize(("modalities", "by"), [(7, 100), (7, 150), (14, 80)])
def test_far_apart_logits_equal_enumeration(modalities: int, by: float) -> None:
    fusion, scores, target = Mulmix(3, modalities).double(), far_apart(modalities, by), torch.tensor([1, 1])
    assert_equal(fusion, scores, target, enumerated_losses(scores, fusion.beta) / (2**modalities - 1))


def test_tables_in_float32_stay_finite_and_are_right_where_their_parts_agree() -> None:
    """As on mps. Two sure modalities of one part may contradict each other as they like."""
    scores, target = far_apart(8, 100), torch.tensor([1, 1])
    tables = mulmix_subsets._Tables(scores.detach())
    for name, table in vars(tables).items():
        setattr(tables, name, table.float())
    losses, gradients = mulmix_subsets._sum_over_subsets(tables, target[None], 0.5, with_gradient=True)
    gradient = tables.to_scores(*gradients)
    assert losses.dtype == torch.float32 and losses.isfinite().all() and gradient.isfinite().all()
    expected = enumerated_losses(scores, 0.5)[:, 1]
    torch.testing.assert_close(losses[0, 1].double(), expected[1], rtol=5e-3, atol=0)  # 1 - p is rounded
    wanted = torch.autograd.grad(expected.sum(), scores)[0]
    torch.testing.assert_close(gradient[1].double(), wanted[1], rtol=5e-3, atol=1e-3)


def test_blocks_give_float32_results_for_float32_scores() -> None:
    fusion, scores, target = draw(9, 3)
    exact = fusion(scores, target)
    single = scores.detach().float().requires_grad_()
    loss = fusion(single, target)
    (gradient,) = torch.autograd.grad(loss, single)
    assert loss.dtype == gradient.dtype == fusion.logits(single).dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact)
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(exact, scores)[0], rtol=1e-4, atol=1e-6)
