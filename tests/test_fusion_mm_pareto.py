"""MMPareto against its authors' numbers, a search for the shortest mixture, and the promise of no conflict."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.rivals import golden
from multimodal_loss import MMPareto
from multimodal_loss.fusion.mm_pareto import min_norm_weight

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def test_equals_the_authors_numbers() -> None:
    case = golden("mm_pareto")
    k = [min_norm_weight([a], [b]) for a, b in zip(case["g1"], case["g2"], strict=True)]
    torch.testing.assert_close(torch.stack(k), case["weights"][:, 0], **EXACT)
    first, second, expected = (
        [case[f"{name}_weight"], case[f"{name}_bias"]] for name in ("grad_mm", "grad_audio", "final_grad")
    )
    for got, wanted in zip(MMPareto(3, 2).joined(first, second), expected, strict=True):
        torch.testing.assert_close(got, wanted, **EXACT)


def test_the_mixture_is_the_shortest_where_gradients_conflict() -> None:
    torch.manual_seed(0)
    steps = torch.linspace(0, 1, 10001, dtype=torch.float64)[:, None]
    conflicts = 0
    for _ in range(30):
        a, b = torch.randn(2, 6, dtype=torch.float64)
        k = float(min_norm_weight([a[:2], a[2:]], [b[:2], b[2:]]))
        g = k * a + (1 - k) * b
        assert g @ a >= -1e-12 and g @ b >= -1e-12
        if a @ b > 0:
            assert k == 0.5
            continue
        conflicts += 1
        shortest = float(steps[(steps * a + (1 - steps) * b).norm(dim=1).argmin()])
        assert k == pytest.approx(shortest, abs=1e-4)
    assert conflicts > 5


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.0, 1.0), (1.0, -1.0)])
def test_gradients_that_vanish_stay_finite(first: float, second: float) -> None:
    (got,) = MMPareto(3, 2).joined([torch.full((4,), first)], [torch.full((4,), second)])
    assert got.tolist() == [0.0] * 4


class Net(nn.Module):
    """A network per modality, after one layer that both share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.shared = nn.Linear(4, 4)
        self.own = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(self.shared(one)) for net, one in zip(self.own, x, strict=True)], dim=1)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_step_is_what_two_gradients_make_of_it(share: float) -> None:
    """Against separate calls of autograd; a gradient from before is added to; what is shared gets the plain sum."""
    net = Net().double()
    x, target = torch.randn(2, 7, 4, dtype=torch.float64), torch.randint(3, (7,))
    scores, fusion = net(x), MMPareto(3, 2, gamma=1.2)
    fused = F.cross_entropy(scores[:, 0] + scores[:, 1], target)
    unimodal = F.cross_entropy(scores[:, 0], target) + F.cross_entropy(scores[:, 1], target)
    parameters = list(net.parameters())
    a = dict(zip(parameters, torch.autograd.grad(share * fused, parameters, retain_graph=True), strict=True))
    b = dict(zip(parameters, torch.autograd.grad(share * unimodal, parameters, retain_graph=True), strict=True))
    expected = {p: a[p] + b[p] for p in net.shared.parameters()}
    for own in net.own:
        flat_a, flat_b = (torch.cat([g[p].flatten() for p in own.parameters()]) for g in (a, b))
        difference = flat_b - flat_a
        k = 0.5 if flat_a @ flat_b > 0 else float(flat_b @ difference / (difference @ difference))
        for p in own.parameters():
            g = 2 * k * a[p] + 2 * (1 - k) * b[p]
            expected[p] = 1.2 * g * max(1.0, float((a[p] + b[p]).norm() / g.norm()))
    for p in parameters:
        p.grad = torch.ones_like(p)
    loss = fusion(scores, target)
    torch.testing.assert_close(loss, fused + unimodal, **EXACT)
    fusion.backward(loss, scores, target, [[(p, slice(None)) for p in own.parameters()] for own in net.own], share)
    for p in parameters:
        torch.testing.assert_close(p.grad, expected[p] + 1, rtol=1e-11, atol=1e-11)


def test_a_frozen_modality_and_an_ignored_sample_without_scores() -> None:
    """The other modality's step is as if it were not; what is ignored may be NaN or have no modality."""
    steps = []
    for spoilt in (False, True):
        net, fusion = Net().double().requires_grad_(True), MMPareto(3, 2)
        parameters = [[(p, slice(None)) for p in own.parameters()] for own in net.own]
        x = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        target, mask = torch.arange(7) % 3, torch.ones(7, 2, dtype=torch.bool)
        target[5:], mask[0, 0] = -100, False
        if spoilt:
            mask[6] = False
            net.own[0].requires_grad_(False)
        scores = net(x)
        if spoilt:
            scores[5] = torch.nan
        fusion.backward(fusion(scores, target, mask=mask), scores, target, parameters, mask=mask)
        steps.append([p.grad for p in net.own[1].parameters()])
        assert all((p.grad is None) == spoilt for p in net.own[0].parameters())
    for got, wanted in zip(*steps, strict=True):
        torch.testing.assert_close(got, wanted, **EXACT)


def test_needs_the_parameters() -> None:
    scores, target = torch.randn(7, 2, 3, requires_grad=True), torch.randint(3, (7,))
    fusion = MMPareto(3, 2)
    with pytest.raises(ValueError, match=r"MMPareto.backward needs modality_parameters"):
        fusion.backward(fusion(scores, target), scores, target)
