"""The MultiModal loss against its formulas written out as loops, and what is particular to it."""

import doctest
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multimodal_loss import MultiModalLoss, SoftTriple
from multimodal_loss.fusion import multimodal, multimodal_fused, shapley

EXACT = {"rtol": 1e-10, "atol": 1e-10}
ABLATIONS = [
    {},
    {"attention": "hard_global"},
    {"attention": "hard_per_class"},
    {"attention": "none_sum"},
    {"attention": "none_zero"},
    {"class_score": "proxy"},
    {"class_score": "proxy_times_k"},
    {"class_score": "proxy", "attention": "none_sum"},
    {"class_score": "proxy", "attention": "none_zero"},
    {"variant": "paper"},
    {"variant": "paper", "attention": "hard_global", "class_score": "proxy"},
    {"gamma": 0.5},
    {"gamma": 0.02},
    {"attends_to": "logits", "gamma": 0.5},
    {"attends_to": "logits", "variant": "paper", "attention": "hard_per_class"},
]


def looped_logits(
    scores: Tensor,
    proxies: Tensor,
    gamma: float = 0.1,
    variant: str = "released",
    attention: str = "soft",
    class_score: str = "class",
    attends_to: str | None = None,
) -> Tensor:
    """The logits, one number at a time, as the formulas are written in the paper (eq. 3-6) and its released code."""
    classes, per_class, modalities, _ = proxies.shape
    pairs = [(c, k) for c in range(classes) for k in range(per_class)]
    places = [(m, c) for m in range(modalities) for c in range(classes)]
    released = variant == "released"

    def unit(values: dict[Any, Tensor]) -> dict[Any, Tensor]:
        norm = torch.stack([value**2 for value in values.values()]).sum().sqrt()
        return {place: value / max(norm, torch.tensor(1e-12)) for place, value in values.items()}

    w = {}
    for c, k in pairs:
        raw = {(m, j): proxies[c, k, m, j] for m, j in places}
        rectified = {place: value if value > 0 else 0 * value for place, value in raw.items()}
        w[c, k] = unit(rectified) if released else raw

    rows = []
    for b in range(len(scores)):
        x = {(m, j): scores[b, m, j] for m, j in places}
        added = x
        if attends_to == "logits":
            added = {(m, j): x[m, j] - sum(x[m, i] for i in range(classes)) / classes for m, j in places}
            x = {(m, j): x[m, j].exp() / sum(x[m, i].exp() for i in range(classes)) for m, j in places}
        u = unit(x) if released else x
        s = {pair: sum(u[place] * w[pair][place] for place in places) for pair in pairs}
        e = {pair: (s[pair] / gamma).exp() for pair in pairs}
        closest = max(pairs, key=lambda pair: s[pair].item())
        row = []
        for c in range(classes):
            score = torch.zeros((), dtype=scores.dtype)
            for k in range(per_class):
                across = [pair for pair in pairs if (pair[1] == k if class_score == "class" else pair[0] == c)]
                score = score + e[c, k] / sum(e[pair] for pair in across) * s[c, k]
            if class_score == "proxy_times_k":
                score = score * per_class

            nearest = max((pair for pair in pairs if pair[0] == c), key=lambda pair: s[pair].item())
            attended = torch.zeros((), dtype=scores.dtype)
            for m in range(modalities):
                if attention == "soft":
                    r = sum(e[pair] / sum(e.values()) * w[pair][m, c] for pair in pairs)
                else:
                    r = {"hard_global": w[closest][m, c], "hard_per_class": w[nearest][m, c]}.get(attention, 0.0)
                if attention != "none_zero":
                    attended = attended + added[m, c] * (1 + r)
            row.append(score + attended)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def draw(
    batch: int, modalities: int, classes: int, seed: int = 0, **options: Any
) -> tuple[MultiModalLoss, Tensor, Tensor]:
    torch.manual_seed(seed)
    loss = MultiModalLoss(classes, modalities, **options).double()
    scores = (2 * torch.randn(batch, modalities, classes, dtype=torch.float64)).softmax(dim=-1).requires_grad_()
    return loss, scores, torch.randint(classes, (batch,))


def assert_equal_to_plain(loss: MultiModalLoss, scores: Tensor, target: Tensor, **tolerance: float) -> None:
    """Value and gradients of the loss against those of cross-entropy over the logits, which autograd works out."""
    inputs = [scores, loss.proxies]
    expected = F.cross_entropy(loss.logits(scores), target)
    got = loss(scores, target)
    torch.testing.assert_close(got, expected, **tolerance)
    for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@settings(max_examples=80, deadline=None)
@given(
    options=st.sampled_from(ABLATIONS),
    batch=st.integers(1, 3),
    modalities=st.integers(1, 3),
    classes=st.integers(1, 4),
    per_class=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_equals_the_formulas_written_as_loops(
    options: dict[str, Any], batch: int, modalities: int, classes: int, per_class: int, seed: int
) -> None:
    loss, scores, target = draw(batch, modalities, classes, seed, proxies_per_class=per_class, **options)
    logits = looped_logits(scores, loss.proxies, **options)
    torch.testing.assert_close(loss.logits(scores), logits, **EXACT)
    expected, got = F.cross_entropy(logits, target), loss(scores, target)
    torch.testing.assert_close(got, expected, **EXACT)
    inputs = [scores, loss.proxies]
    wanted = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True)
    for a, b in zip(torch.autograd.grad(got, inputs), wanted, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_option_equals_the_loops(options: dict[str, Any]) -> None:
    loss, scores, _ = draw(2, 2, 3, proxies_per_class=2, **options)
    torch.testing.assert_close(loss.logits(scores), looped_logits(scores, loss.proxies, **options), **EXACT)


@pytest.mark.parametrize("batch", [1, 15, 16, 17, 100])
def test_blocks_of_samples_make_no_difference(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, scores, target = draw(batch, 2, 3)
    monkeypatch.setattr(multimodal_fused, "CPU_BLOCK", 1)
    monkeypatch.setattr(multimodal_fused, "MIN_ROWS", 16)
    assert_equal_to_plain(loss, scores, target, **EXACT)


@pytest.mark.parametrize("layout", ["expanded", "transposed"])
def test_any_memory_layout(layout: str) -> None:
    loss, scores, target = draw(8, 3, 3)
    other = scores[:1].expand(8, 3, 3) if layout == "expanded" else scores.mT
    assert_equal_to_plain(loss, other.detach().requires_grad_(), target, **EXACT)


def test_gradcheck_of_every_option() -> None:
    for options in ABLATIONS:
        loss, scores, target = draw(2, 2, 2, proxies_per_class=2, **options)

        def call(x: Tensor, proxies: Tensor, loss: MultiModalLoss = loss, target: Tensor = target) -> Tensor:
            with torch.nn.utils.stateless._reparametrize_module(loss, {"proxies": proxies}):
                value: Tensor = loss(x, target)
                return value

        assert torch.autograd.gradcheck(call, (scores, loss.proxies))


def awkward_scores() -> dict[str, Tensor]:
    one_hot = F.one_hot(torch.randint(34, (40, 2)), 34).float()
    return {"one_hot": one_hot, "equal": torch.full((40, 2, 34), 1 / 34), "zero": torch.zeros(40, 2, 34)}


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("scores", ["one_hot", "equal", "zero"])
@pytest.mark.parametrize("proxies", ["drawn", "dead", "all_dead", "zero"])
def test_float32_stays_finite(options: dict[str, Any], scores: str, proxies: str) -> None:
    torch.manual_seed(0)
    loss = MultiModalLoss(34, 2, 20, **options)
    with torch.no_grad():
        if proxies == "dead":
            loss.proxies[:, ::2] = -loss.proxies[:, ::2].abs()
        elif proxies == "all_dead":
            loss.proxies.copy_(-loss.proxies.abs())
        elif proxies == "zero":
            loss.proxies.zero_()
    x = awkward_scores()[scores].requires_grad_()
    value = loss(x, torch.randint(34, (40,)))
    value.backward()
    assert value.isfinite() and x.grad is not None and loss.proxies.grad is not None
    assert x.grad.isfinite().all() and loss.proxies.grad.isfinite().all()


@pytest.mark.parametrize("dead", [False, True])
def test_float32_fused_gradients_are_as_good_as_plain_ones(dead: bool) -> None:
    loss, scores, target = draw(300, 2, 34)
    if dead:
        with torch.no_grad():
            loss.proxies[:, ::3] = -loss.proxies[:, ::3].abs()
    expected = torch.autograd.grad(loss(scores, target), [scores, loss.proxies])
    loss.float()
    x = scores.detach().float().requires_grad_()
    for a, b in zip(torch.autograd.grad(loss(x, target), [x, loss.proxies]), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_clamped_entries_get_no_gradient_and_a_dead_proxy_none_at_all() -> None:
    loss, scores, target = draw(20, 3, 2)
    with torch.no_grad():
        loss.proxies[0, 0] = -loss.proxies[0, 0].abs()
    loss(scores, target).backward()
    assert loss.proxies.grad is not None
    assert not loss.proxies.grad[loss.proxies < 0].any()
    assert not loss.proxies.grad[0, 0].any() and loss.proxies.grad[0, 1].any()


def test_proxies_are_drawn_as_in_the_released_code() -> None:
    classes, modalities, per_class = 3, 2, 4
    torch.manual_seed(5)
    loss = MultiModalLoss(classes, modalities, per_class)
    after = torch.rand(3)
    torch.manual_seed(5)
    drawn = torch.empty(modalities * classes, classes * per_class)
    torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))
    assert torch.equal(after, torch.rand(3)), "more or fewer random numbers were drawn"
    for c in range(classes):
        for k in range(per_class):
            for m in range(modalities):
                for j in range(classes):
                    assert loss.proxies[c, k, m, j] == drawn[m * classes + j, c * per_class + k]
    assert loss.proxies.abs().max() <= 1 / math.sqrt(classes * per_class)


def test_both_ablations_together_are_a_soft_triple_with_clamped_proxies() -> None:
    loss, scores, target = draw(9, 3, 4, class_score="proxy", attention="none_zero")
    other = SoftTriple(4, 3, scale=1.0, margin=0.0).double()
    with torch.no_grad():
        other.proxies.copy_(loss.proxies.clamp(min=0))
    torch.testing.assert_close(loss(scores, target), other(scores, target), **EXACT)


def test_hard_attention_is_the_limit_of_a_cold_softmax() -> None:
    soft, scores, _ = draw(9, 2, 3, gamma=1e-7)
    hard = MultiModalLoss(3, 2, gamma=1e-7, attention="hard_global").double()
    hard.load_state_dict(soft.state_dict())
    torch.testing.assert_close(soft.logits(scores), hard.logits(scores))


def test_diagnostics_count_alive_used_and_distinct_proxies() -> None:
    loss = MultiModalLoss(num_classes=2, num_modalities=1, proxies_per_class=4)
    angles = torch.tensor([[0.0, 0.1, 0.2, math.pi], [math.pi / 2, math.pi / 2, 0.7, -math.pi / 2]])
    with torch.no_grad():
        loss.proxies.copy_(torch.stack([angles.cos(), angles.sin()], dim=-1)[:, :, None])
        loss.proxies[0, 3], loss.proxies[1, 3] = -1.0, -1.0
    scores = torch.tensor([[[1.0, 0.0]], [[0.9, 0.1]], [[0.0, 1.0]], [[0.05, 0.95]]])
    target = torch.tensor([0, 0, 1, 1])
    # Class 0: three alive in a chain of cosines of 0.995; the samples at 0 and 0.11 rad are closest to two of them.
    # Class 1: two equal ones and one apart; both samples are closest to the first of the equal ones.
    counts = {"alive": [3, 3], "used": [2, 1], "inverted": [0, 0], "distinct": [1, 2]}
    assert loss.proxy_diagnostics(scores, target) == counts


def test_a_proxy_is_inverted_where_a_modality_of_it_stands_for_another_class() -> None:
    loss = MultiModalLoss(num_classes=2, num_modalities=2, proxies_per_class=2)
    right, wrong, nothing = [[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.2, 0.8]], [[0.0, 0.0], [0.0, 1.0]]
    with torch.no_grad():
        loss.proxies.copy_(torch.tensor([[right, wrong], [nothing, wrong]]))
    scores = torch.tensor([right, wrong, nothing])  # of class 1 no sample is near to the wrong one, which is not used
    counts = loss.proxy_diagnostics(scores, torch.tensor([0, 0, 1]))
    assert counts["used"] == [2, 1] and counts["inverted"] == [1, 0]


def test_diagnostics_without_a_sample_or_a_live_proxy() -> None:
    loss = MultiModalLoss(2, 2, 3)
    with torch.no_grad():
        loss.proxies[1] = -1
    counts = loss.proxy_diagnostics(torch.rand(4, 2, 2), torch.zeros(4, dtype=torch.int64))
    assert counts["alive"][1] == 0 and counts["distinct"][1] == 0 and counts["used"][1] == 0


def test_nothing_large_is_kept_between_forward_and_backward() -> None:
    loss, scores, target = draw(500, 2, 10)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(scores, target)
    value.backward()
    assert sum(kept) == 2 * (scores.nbytes + loss.proxies.nbytes)  # the inputs, and a gradient for each


@pytest.mark.parametrize("options", [{}, {"attention": "hard_per_class"}], ids=str)
def test_torch_func_and_compile_see_plain_autograd(options: dict[str, Any]) -> None:
    loss, scores, target = draw(7, 2, 3, **options)
    (expected,) = torch.autograd.grad(loss(scores, target), loss.proxies)

    def call(proxies: Tensor, x: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(loss, {"proxies": proxies}, (x, target))
        return value

    replicates = torch.stack([loss.proxies.detach(), 2 * loss.proxies.detach()])
    got = torch.func.vmap(torch.func.grad(call), in_dims=(0, None))(replicates, scores.detach())
    torch.testing.assert_close(got[0], expected, **EXACT)
    compiled = torch.compile(loss, backend="eager")
    torch.testing.assert_close(compiled(scores, target), loss(scores, target), **EXACT)


def test_threads_do_not_share_working_memory() -> None:
    cases = [draw(2000, 2, 3, seed) for seed in range(4)]
    expected = [loss(scores, target).item() for loss, scores, target in cases]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda case: case[0](case[1], case[2]).item(), cases * 10))
    assert got == expected * 10


def test_a_gradient_penalty_is_that_of_the_plain_formula() -> None:
    loss, scores, target = draw(6, 2, 3)
    found = []
    for value in (loss(scores, target), F.cross_entropy(loss.logits(scores), target)):
        (gradient,) = torch.autograd.grad(value, scores, create_graph=True)
        found.append(torch.autograd.grad(value + gradient.square().sum(), [scores, loss.proxies]))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, **EXACT)
    (first_order,) = torch.autograd.grad(loss(scores, target), loss.proxies)
    assert not torch.allclose(found[0][1], first_order)


def looped_shares(scores: Tensor, fusion: MultiModalLoss, options: dict[str, Any]) -> Tensor:
    """Contributions (B, M, C) by Shapley's formula over subsets, the class score of each by loops."""
    modalities = fusion.num_modalities
    everyone, shares = range(modalities), torch.zeros_like(scores)
    alone = {**options, "attention": "none_zero"}
    worth = {}
    for size in range(modalities + 1):
        for members in itertools.combinations(everyone, size):
            joined = torch.stack([scores[:, m] * float(m in members) for m in everyone], dim=1)
            worth[members] = looped_logits(joined, fusion.proxies, **alone)
    for m in everyone:
        for members in worth:
            if m not in members:
                weight = math.factorial(len(members)) * math.factorial(modalities - len(members) - 1)
                gain = worth[tuple(sorted((*members, m)))] - worth[members]
                shares[:, m] += weight / math.factorial(modalities) * gain
    full = looped_logits(scores, fusion.proxies, **options) - worth[tuple(everyone)]
    for m in everyone:  # the attended output is linear in x once r is known: by its own attention
        shares[:, m] += scores[:, m] * (1 + fusion.attention(scores)[:, m])
    torch.testing.assert_close((scores * (1 + fusion.attention(scores))).sum(1), full, **EXACT)
    return shares


@pytest.mark.parametrize(
    ("modalities", "options"),
    [(1, {}), (2, {}), (3, {"variant": "paper"}), (3, {"class_score": "proxy"}), (4, {"gamma": 0.5})],
)
@torch.no_grad()
def test_contributions_are_shapley_values_written_as_loops(modalities: int, options: dict[str, Any]) -> None:
    torch.manual_seed(modalities)
    fusion = MultiModalLoss(3, modalities, proxies_per_class=2, **options).double()
    scores = (2 * torch.randn(2, modalities, 3, dtype=torch.float64)).softmax(-1)
    torch.testing.assert_close(fusion.contributions(scores), looped_shares(scores, fusion, options), **EXACT)


@pytest.mark.parametrize("options", ABLATIONS)
@pytest.mark.parametrize("modalities", [1, 3, 6])
def test_contributions_sum_to_the_logits(modalities: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    fusion = MultiModalLoss(4, modalities, proxies_per_class=3, **options).double()
    scores = torch.randn(5, modalities, 4, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(fusion.contributions(scores).sum(dim=1), fusion.logits(scores), **EXACT)
    assert fusion.contributions(scores[:0]).shape == (0, modalities, 4)


def test_a_constant_added_to_a_modalitys_logits_changes_nothing_where_logits_are_attended_to() -> None:
    torch.manual_seed(0)
    fusion = MultiModalLoss(4, 2, proxies_per_class=3, attends_to="logits").double()
    scores = torch.randn(5, 2, 4, dtype=torch.float64)
    moved = scores + torch.tensor([3.0, -7.0])[:, None]
    torch.testing.assert_close(fusion.contributions(moved), fusion.contributions(scores), **EXACT)
    torch.testing.assert_close(fusion.logits(moved), fusion.logits(scores), **EXACT)


@torch.no_grad()
def test_contributions_are_fair() -> None:
    """Modalities that change places, with their proxies, change contributions; a silent one adds nothing."""
    torch.manual_seed(0)
    fusion, moved = (MultiModalLoss(4, 3, proxies_per_class=3).double() for _ in range(2))
    scores = torch.randn(5, 3, 4, dtype=torch.float64).softmax(-1)
    moved.proxies.copy_(fusion.proxies[:, :, [2, 0, 1]])
    expected = fusion.contributions(scores)[:, [2, 0, 1]]
    torch.testing.assert_close(moved.contributions(scores[:, [2, 0, 1]]), expected, **EXACT)
    fusion.proxies[:, :, 1] = fusion.proxies[:, :, 0]
    scores[:, 1] = scores[:, 0]
    both = fusion.contributions(scores)
    torch.testing.assert_close(both[:, 0], both[:, 1], **EXACT)
    scores[:, 2] = 0
    assert not fusion.contributions(scores)[:, 2].any()


def test_many_modalities_are_split_by_the_same_orders_in_every_call() -> None:
    """An estimate: it comes nearer to the exact split with more orders."""
    torch.manual_seed(0)
    fusion = MultiModalLoss(3, 6, proxies_per_class=2).double()
    fusion.requires_grad_(False)
    scores = torch.randn(4, 6, 3, dtype=torch.float64).softmax(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapley, "EXACT_PLAYERS", 6)
        exact = fusion.contributions(scores)
    rough, fine = fusion.contributions(scores, orders=2), fusion.contributions(scores, orders=150)
    assert torch.equal(fusion.contributions(scores, orders=2), rough)
    assert float((fine - exact).abs().max()) < 0.3 * float((rough - exact).abs().max())
    with pytest.raises(ValueError, match="orders must be a whole number of at least 1, got 0"):
        fusion.contributions(scores, orders=0)


@torch.no_grad()
def test_attention_is_what_the_nearest_proxies_hold() -> None:
    """With a small gamma all of it goes to the closest proxy."""
    torch.manual_seed(0)
    fusion = MultiModalLoss(3, 2, proxies_per_class=4, gamma=1e-6).double()
    scores = torch.randn(5, 2, 3, dtype=torch.float64).softmax(-1)
    proxies = fusion.effective_proxies().flatten(0, 1)
    closest = (proxies.flatten(1) @ scores.flatten(1).t()).argmax(0)
    attention = fusion.attention(scores)
    torch.testing.assert_close(attention, proxies[closest], **EXACT)
    without = MultiModalLoss(3, 2, attention="none_sum")
    assert not without.attention(scores.float()).any() and "attention='none_sum'" in repr(without)


@torch.no_grad()
def test_a_weight_is_the_share_of_what_is_added_to_the_predicted_class() -> None:
    torch.manual_seed(0)
    fusion = MultiModalLoss(3, 2, proxies_per_class=4).double()
    scores = torch.randn(20, 2, 3, dtype=torch.float64).softmax(-1)
    for sample, weights in zip(scores, fusion.modality_weights(scores), strict=True):  # type: ignore[arg-type]
        predicted = int(fusion.logits(sample[None]).argmax())
        added = [max(0.0, float(one[predicted])) for one in fusion.contributions(sample[None])[0]]
        assert weights.tolist() == pytest.approx([one / sum(added) for one in added], rel=1e-10)


def test_the_example_of_the_docstring_runs() -> None:
    ended = doctest.testmod(multimodal)
    assert ended.failed == 0 and ended.attempted >= 5
