"""Missing modalities: every fusion against one of fewer modalities, made by hand from the parts of its parameters."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_loss import fusion as fusions
from multimodal_loss.fusion import Fusion, base, multimodal
from multimodal_loss.fusion.proxies import ProxyFusion

CLASSES, MODALITIES, BATCH = 3, 3, 8
EXACT = {"rtol": 1e-10, "atol": 1e-10}

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "MultiModalLoss": [
        {},
        {"variant": "paper"},
        {"variant": "paper", "attention": "hard_global", "class_score": "proxy"},
        {"attention": "hard_global"},
        {"attention": "hard_per_class"},
        {"attention": "none_sum"},
        {"attention": "none_zero", "class_score": "proxy_times_k"},
        {"gamma": 0.01},
        {"label_smoothing": 0.1},
        {"attends_to": "logits"},
    ],
    "Mulmix": [{}, {"candidates": "mean"}, {"candidates": "heads"}, {"candidate_reduction": "mean"}],
    "WeightedSumCrossEntropy": [{}, {"weights": [0.3, 0.6, -0.2]}],
    "ECML": [{}, {"aggregation": "mean"}, {"aggregation": "by_uncertainty"}],
    "QMF": [{}, {"variant": "rgbd", "rank_margin": "required"}],
    "OGMGE": [{}, {"noise": 0.0}],
    "Multitask": [{}, {"ensemble": "mean", "loss": "cross_entropy_of_probabilities"}],
    "SoftTriple": [{}, {"tau": 0.2}],
    "MMCosine": [{}, {"num_features": 4}],
}
KINDS = [name for name in fusions.__all__ if name not in ("Fusion", "ReadOut", "Unimodal")]
EVERY = [(kind, options, MODALITIES) for kind in KINDS for options in VARIANTS.get(kind, [{}])]
EVERY += [("Mulmix", {"candidate_reduction": how}, 7) for how in ("sum", "mean")]  # subsets that are not listed
PATTERNS = {3: [(0,), (2,), (0, 2), (1, 2)], 7: [(3,), (0, 2, 5), (1, 2, 3, 4, 5, 6)]}

of_every_fusion = pytest.mark.parametrize(("kind", "options", "modalities"), EVERY, ids=str)


def build(kind: str, options: dict[str, Any], modalities: int) -> Fusion:
    torch.manual_seed(0)
    fusion: Fusion = getattr(fusions, kind)(CLASSES, modalities, **options)
    fusion.double()
    fusion.begin_epoch(20, 0)
    if isinstance(fusion, fusions.Multitask):
        nn.init.normal_(fusion.ensemble_weight)
        nn.init.normal_(fusion.ensemble_bias)
    return fusion


def part(fusion: Fusion, name: str, whole: Tensor, here: tuple[int, ...]) -> tuple[str, Tensor] | None:
    """Of a parameter, a buffer or a gradient that which belongs to these modalities alone, and its name there."""
    of, classes = list(here), fusion.num_classes
    if name == "proxies":
        return name, whole[:, :, of]
    if name in ("head.weight", "ensemble_weight"):
        return name, whole.unflatten(1, (fusion.num_modalities, classes))[:, of].flatten(1)
    if name == "weight":  # of MMCosine
        return name, whole[:, of]
    if name in ("history", "latest"):
        return name, whole[of]
    if name.startswith("heads."):
        _, number, rest = name.split(".")
        members = tuple(int(m) for m in fusion.members[int(number)].nonzero()[:, 0])
        if not set(members) <= set(here):
            return None
        return f"heads.{sum(1 << here.index(m) for m in members) - 1}.{rest}", whole
    return name, whole


def without(fusion: Fusion, options: dict[str, Any], here: tuple[int, ...]) -> Fusion:
    """The fusion of these modalities alone."""
    if "weights" in options:
        options = {**options, "weights": [options["weights"][m] for m in here]}
    fewer = type(fusion)(CLASSES, len(here), **options).double()
    parts = [part(fusion, name, tensor, here) for name, tensor in fusion.state_dict().items()]
    fewer.load_state_dict(dict(found for found in parts if found is not None))
    return fewer


def draw(fusion: Fusion, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, fusion.num_modalities, fusion.score_width)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    return scores, torch.randint(CLASSES, (batch,), generator=generator)


def with_nan(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.detach().masked_fill(~mask[:, :, None], math.nan).requires_grad_()


def outputs(fusion: Fusion, scores: Tensor, mask: Tensor | None = None) -> Iterator[tuple[str, Tensor, bool]]:
    """What it says of scores, by name, and whether it has an axis of modalities."""
    options = {} if mask is None else {"mask": mask}
    yield "logits", fusion.logits(scores, **options), False
    yield "probabilities", fusion.probabilities(scores, **options), False
    weights = fusion.modality_weights(scores, **options)
    if weights is not None:
        yield "weights", weights, True
    if isinstance(fusion, fusions.MultiModalLoss):
        yield "attention", fusion.attention(scores, **options), True
        if fusion.num_modalities <= 4:
            yield "contributions", fusion.contributions(scores, **options), True


def gradients(loss: Tensor, scores: Tensor, fusion: Fusion) -> dict[str, Tensor]:
    inputs = {"scores": scores, **dict(fusion.named_parameters())}
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


@pytest.fixture
def small_batches_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The MultiModal loss works on samples of one kind together, where there are many of it."""
    monkeypatch.setattr(multimodal, "MIN_OF_KIND", 1)


@pytest.mark.usefixtures("small_batches_are_fused")
@of_every_fusion
def test_a_masked_modality_is_as_if_there_were_none(kind: str, options: dict[str, Any], modalities: int) -> None:
    fusion = build(kind, options, modalities)
    scores, target = draw(fusion)
    for here in PATTERNS[modalities]:
        mask = torch.zeros(BATCH, modalities, dtype=torch.bool)
        mask[:, list(here)] = True
        fewer = without(fusion, options, here)
        masked, dropped = with_nan(scores, mask), scores[:, list(here)].requires_grad_()
        loss, expected = fusion(masked, target, mask=mask), fewer(dropped, target)
        if "tau" in options:  # the regulariser is of whole proxies
            expected = expected + options["tau"] * (fusion._proxy_spread() - fewer._proxy_spread())
        torch.testing.assert_close(loss, expected, **EXACT)
        found = gradients(loss, masked, fusion)
        wanted = gradients(expected, dropped, fewer)
        assert not found["scores"][~mask].any()
        torch.testing.assert_close(found.pop("scores")[:, list(here)], wanted.pop("scores"), **EXACT)
        for name, gradient in found.items() if "tau" not in options else ():
            of_part = part(fusion, name, gradient, here)
            if of_part is None:
                assert not gradient.any(), name
            else:
                torch.testing.assert_close(of_part[1], wanted[of_part[0]], **EXACT)
        for (name, ours, by_modality), (_, other, _) in zip(
            outputs(fusion, masked, mask), outputs(fewer, dropped), strict=True
        ):
            if by_modality:
                assert not ours[~mask].any(), name
                ours = ours[:, list(here)]
            torch.testing.assert_close(ours, other, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
        watched = fusion.monitored(masked, target, mask=mask)
        if "tau" not in options:
            torch.testing.assert_close(watched, fewer.monitored(dropped, target), **EXACT)


def mixed(modalities: int) -> Tensor:
    """All kinds of samples in one batch, some more than once."""
    kinds = [*PATTERNS[modalities], tuple(range(modalities))]
    order = [0, 1, len(kinds) - 1, 2, 1, len(kinds) - 1, 0, 2]
    return torch.stack([torch.tensor([m in kinds[which] for m in range(modalities)]) for which in order])


@pytest.mark.usefixtures("small_batches_are_fused")
@pytest.mark.parametrize("look", [True, False])
@of_every_fusion
def test_a_mixed_batch_is_its_samples_one_by_one(
    kind: str, options: dict[str, Any], modalities: int, look: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the host does not look at masks and targets, as on an accelerator; with a sample that is ignored."""
    if kind == "QMF":
        options = {**options, "rank_weight": 0.0}  # what it weighs is of pairs of samples
    fusion = build(kind, options, modalities)
    (scores, target), mask = draw(fusion), mixed(modalities)
    target[3] = -100
    if not look:
        monkeypatch.setattr(base, "_can_look", lambda values: False)
    masked = with_nan(scores, mask)
    everything = list(outputs(fusion, masked, mask))
    losses, of_scores = [], torch.zeros_like(scores)
    for i in range(BATCH):
        here = tuple(int(m) for m in mask[i].nonzero()[:, 0])
        fewer, one = without(fusion, options, here), scores[i : i + 1, list(here)].requires_grad_()
        losses.append(fewer(one, target[i : i + 1]))
        of_scores[i, list(here)] = torch.autograd.grad(losses[-1], one)[0][0]
        for (_, ours, by_modality), (_, other, _) in zip(everything, outputs(fewer, one), strict=True):
            torch.testing.assert_close(ours[i][mask[i]] if by_modality else ours[i], other[0], **EXACT)
    if isinstance(fusion, fusions.ProxyAnchor) or "tau" in options:
        return  # their losses are no means over samples
    loss = fusion(masked, target, mask=mask)
    torch.testing.assert_close(loss, torch.stack(losses).sum() / (BATCH - 1), **EXACT)
    if kind != "OGMGE":  # whose coefficients are of a batch
        found = gradients(loss, masked, fusion)["scores"]
        torch.testing.assert_close(found, of_scores / (BATCH - 1), **EXACT)


def test_proxy_anchor_of_mixed_samples_written_as_loops() -> None:
    fusion = build("ProxyAnchor", {}, 3)
    assert isinstance(fusion, fusions.ProxyAnchor)
    (scores, target), mask = draw(fusion), mixed(3)
    present, pulls, pushes = 0, [], []
    for c in range(CLASSES):
        pull = push = 0.0
        for i in range(BATCH):
            x, p = scores[i][mask[i]].flatten(), fusion.proxies[c, 0][mask[i]].flatten()
            cosine = float((x @ p).detach() / x.norm() / p.norm().detach())
            if target[i] == c:
                pull += math.exp(-32 * (cosine - 0.1))
            else:
                push += math.exp(32 * (cosine + 0.1))
        present += int((target == c).any())
        pulls.append(math.log1p(pull))
        pushes.append(math.log1p(push))
    expected = sum(pulls) / present + sum(pushes) / CLASSES
    assert fusion(with_nan(scores, mask), target, mask=mask).item() == pytest.approx(expected, rel=1e-10)


def test_the_fused_multimodal_loss_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fusion = build("MultiModalLoss", {"weight": [1.0, 3.0, 0.5]}, 3)
    (scores, target), mask = draw(fusion), mixed(3)
    target[2] = -100
    monkeypatch.setattr(multimodal, "losses_and_gradients_of_kinds", None)
    x = with_nan(scores, mask)
    plain = gradients(fusion(x, target, mask=mask), x, fusion)
    monkeypatch.undo()
    monkeypatch.setattr(multimodal, "MIN_OF_KIND", 1)
    monkeypatch.setattr(fusion, "compute_logits", None)
    for name, gradient in gradients(fusion(x, target, mask=mask), x, fusion).items():
        torch.testing.assert_close(gradient, plain[name], **EXACT)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SumCrossEntropy", {}),
        ("WeightedSumCrossEntropy", {}),
        ("Mulmix", {}),
        ("Mulmix", {"candidates": "mean"}),
        ("Multitask", {"ensemble": "mean"}),
        ("OGMGE", {}),
        ("MMPareto", {}),
    ],
)
def test_of_a_single_modality_its_own_prediction_is_left(kind: str, options: dict[str, Any]) -> None:
    fusion = build(kind, options, 3)
    scores, _ = draw(fusion)
    own = torch.arange(BATCH) % 3
    mask = F.one_hot(own, 3).bool()
    alone = scores[torch.arange(BATCH), own].softmax(dim=1)
    torch.testing.assert_close(fusion.probabilities(with_nan(scores, mask), mask), alone, **EXACT)


def test_of_a_single_modality_its_own_evidence_is_left() -> None:
    for kind in ("TMC", "ECML"):
        fusion = build(kind, {}, 3)
        scores, _ = draw(fusion)
        alpha = F.softplus(scores[:, 1]) + 1
        got = fusion.probabilities(scores, torch.tensor([[False, True, False]]).expand(BATCH, -1))
        torch.testing.assert_close(got, alpha / alpha.sum(dim=1, keepdim=True), **EXACT)


@of_every_fusion
def test_a_mask_without_a_gap_changes_nothing(
    kind: str, options: dict[str, Any], modalities: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = build(kind, options, modalities)
    scores, target = draw(fusion)
    full = torch.ones(BATCH, modalities, dtype=torch.bool)
    expected, plain = fusion(scores, target), list(outputs(fusion, scores))
    assert torch.equal(fusion(scores, target, mask=full), expected)
    monkeypatch.setattr(base, "_can_look", lambda values: False)
    torch.testing.assert_close(fusion(scores, target, mask=full), expected, **EXACT)
    for (_, ours, _), (_, other, _) in zip(outputs(fusion, scores, full), plain, strict=True):
        torch.testing.assert_close(ours, other, **EXACT)


@pytest.mark.usefixtures("small_batches_are_fused")
@of_every_fusion
def test_first_and_second_derivatives(kind: str, options: dict[str, Any], modalities: int) -> None:
    fusion = build(kind, options, modalities)
    for name, exact in {"beta": 0.0, "alpha": 0.0}.items():  # what carries no gradient by definition
        if hasattr(fusion, name) and not isinstance(fusion, ProxyFusion):
            setattr(fusion, name, exact)
    if isinstance(fusion, fusions.QMF):
        fusion.variant, fusion.rank_weight = "rgbd", 0.0
    if "hard" in str(options) or "by_uncertainty" in str(options) or options.get("gamma") == 0.01:
        return  # choices, and too steep for finite differences
    (scores, target), mask = draw(fusion, 3), mixed(modalities)[1:4]
    names = [name for name, _ in fusion.named_parameters()]

    def call(*inputs: Tensor) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(fusion, dict(zip(names, inputs[1:], strict=True))):
            loss: Tensor = fusion(inputs[0], target, mask=mask)
            return loss**2

    inputs = (scores.requires_grad_(), *fusion.parameters())
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    if modalities == 3:
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_into_one_graph(kind: str) -> None:
    fusion = build(kind, {}, 3)
    (scores, target), mask = draw(fusion), mixed(3)
    torch.compiler.reset()
    compiled: Any = torch.compile(fusion, backend="eager", fullgraph=True)
    expected = fusion(with_nan(scores, mask), target, mask=mask)
    torch.testing.assert_close(compiled(with_nan(scores, mask), target, mask=mask), expected, **EXACT)


def test_half_precision_and_no_gradients() -> None:
    for kind, options, modalities in EVERY:
        fusion = build(kind, options, modalities).float()
        (scores, target), mask = draw(fusion), mixed(modalities)
        x = with_nan(scores, mask).detach().bfloat16()
        with torch.inference_mode():
            got = fusion(x, target, mask=mask)
        assert got.dtype == torch.float32 and torch.equal(got, fusion(x.float(), target, mask=mask).detach())


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([[True, True]], TypeError, r"mask must be a tensor, shape \(2, 3\).*got a list"),
        (
            torch.ones(2, 2, dtype=torch.bool),
            ValueError,
            r"mask must have shape \(2, 3\) and type bool.*got .*\(2, 2\)",
        ),
        (torch.ones(2, 3), ValueError, "type bool.*got.*float32"),
        (
            torch.ones(2, 3, dtype=torch.bool, device="meta"),
            ValueError,
            "mask must be on the device of scores, cpu, got meta",
        ),
        (torch.tensor([[True, False, True], [False] * 3]), ValueError, r"sample 1 of the batch .* has no modality"),
    ],
)
def test_wrong_masks_raise_one_line(mask: Any, error: type[Exception], message: str) -> None:
    fusion, scores, target = build("MultiModalLoss", {}, 3), torch.rand(2, 3, 3).double(), torch.tensor([0, 1])
    for call in (lambda: fusion(scores, target, mask=mask), lambda: fusion.logits(scores, mask)):
        with pytest.raises(error, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("look", [True, False])
@of_every_fusion
def test_an_ignored_sample_may_have_no_modality(
    kind: str, options: dict[str, Any], modalities: int, look: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = build(kind, options, modalities)
    (scores, target), mask = draw(fusion), mixed(modalities)
    target[2], mask[2], kept = -100, False, torch.arange(BATCH) != 2
    x, y = with_nan(scores, mask), with_nan(scores[kept], mask[kept])
    expected = gradients(fusion(y, target[kept], mask=mask[kept]), y, fusion)
    if not look:
        monkeypatch.setattr(base, "_can_look", lambda values: False)
    found = gradients(fusion(x, target, mask=mask), x, fusion)
    assert not found["scores"][2].any()
    found["scores"] = found["scores"][kept]
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


@of_every_fusion
def test_what_is_watched_takes_an_ignored_sample_without_modality_or_with_nan(
    kind: str, options: dict[str, Any], modalities: int
) -> None:
    fusion = build(kind, options, modalities)
    (scores, target), mask = draw(fusion), mixed(modalities)
    target[2:4], mask[2], kept = -100, False, torch.tensor([0, 1, *range(4, BATCH)])
    with torch.no_grad():
        scores[3] = torch.nan
    for watched in (fusion.negative_log_likelihood, fusion.monitored):
        expected = watched(scores[kept], target[kept], mask=mask[kept])
        torch.testing.assert_close(watched(scores, target, mask=mask), expected, **EXACT)


def test_a_fusion_that_knows_no_masks_says_so() -> None:
    class Mean(Fusion):
        def compute_logits(self, scores: Tensor) -> Tensor:  # type: ignore[override]
            return scores.mean(dim=1)

    class OwnLoss(fusions.SumCrossEntropy):
        def compute_loss(self, scores: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
            return scores.sum()

    scores, mask = torch.rand(2, 3, 3), torch.tensor([[True, False, True], [True] * 3])
    for fusion in (Mean(3, 3), OwnLoss(3, 3)):
        assert fusion(scores, torch.tensor([0, 1])).isfinite() and fusion.monitored(scores, torch.tensor([0, 1])) > 0
        with pytest.raises(ValueError, match=r"(Mean|OwnLoss) knows no missing modalities: .* take `mask`"):
            fusion.logits(scores, mask)
    assert all(getattr(fusions, kind).reads_mask for kind in KINDS)


def test_every_public_method_that_reads_scores_takes_a_mask() -> None:
    for kind in KINDS:
        for name, method in inspect.getmembers(getattr(fusions, kind), inspect.isfunction):
            parameters = list(inspect.signature(method).parameters)
            if not name.startswith("_") and parameters[1:2] == ["scores"]:
                assert "mask" in parameters, (kind, name)


@pytest.mark.parametrize("kind", ["OGMGE", "MMPareto"])
def test_gradients_of_modalities_are_balanced_without_the_missing_one(kind: str) -> None:
    options = {"noise": 0.0} if kind == "OGMGE" else {}
    fusion = build(kind, options, 3)
    scores, target = draw(fusion)
    layers = [nn.Parameter(torch.randn(3, 3, dtype=torch.float64)) for _ in range(3)]
    found = []
    for here in ((0, 1, 2), (0, 2)):
        mask = None if here == (0, 2) else torch.tensor([[True, False, True]]).expand(BATCH, -1)
        one = fusion if here == (0, 1, 2) else without(fusion, options, here)
        x = torch.stack([scores[:, m] @ layers[m] for m in here], dim=1)
        for layer in layers:
            layer.grad = None
        one.backward(one(x, target, mask=mask), x, target, [[(layers[m], slice(None))] for m in here], mask=mask)
        found.append([layers[m].grad for m in (0, 2)])
        assert layers[1].grad is None or not layers[1].grad.any()
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


def test_coefficients_of_ogm_compare_means_over_the_samples_that_have_a_modality() -> None:
    fusion = build("OGMGE", {"alpha": 0.5}, 3)
    assert isinstance(fusion, fusions.OGMGE)
    scores, target = draw(fusion, 4)
    mask = torch.tensor([[True, False, True], [True, False, False], [True, False, True], [False, False, True]])
    s = [
        sum(float(scores[i, m].softmax(0)[target[i]]) for i in range(4) if mask[i, m]) / int(mask[:, m].sum())
        for m in (0, 2)
    ]
    expected = [1 - math.tanh(0.5 * ratio) if ratio > 1 else 1.0 for ratio in (s[0] / s[1], s[1] / s[0])]
    assert fusion.coefficients(with_nan(scores, mask).detach(), target, mask)[[0, 2]].tolist() == pytest.approx(
        expected
    )


def test_history_of_qmf_grows_by_what_a_sample_has() -> None:
    fusion = build("QMF", {}, 3)
    assert isinstance(fusion, fusions.QMF)
    (scores, target), mask = draw(fusion), mixed(3)
    fusion.begin_epoch(1, BATCH)
    fusion(with_nan(scores, mask), target, torch.arange(BATCH), mask)
    losses = F.cross_entropy(scores.mT, target[:, None].expand(-1, 3), reduction="none")
    torch.testing.assert_close(fusion.latest, losses.masked_fill(~mask, 0).t(), **EXACT)


@pytest.mark.parametrize("modalities", [2, 70])
def test_patterns_are_the_kinds_of_samples(modalities: int) -> None:
    mask = torch.ones(5, modalities, dtype=torch.bool)
    mask[[1, 3], 0] = False
    mask[4, modalities - 1] = False
    found = {tuple(rows.tolist()): here.tolist() for rows, here in base.patterns(mask)}
    assert found == {(0, 2): [*range(modalities)], (1, 3): [*range(1, modalities)], (4,): [*range(modalities - 1)]}


@pytest.mark.parametrize("rank_margin", ["released", "required"])
def test_qmf_of_mixed_samples_written_as_loops(rank_margin: str) -> None:
    """Pairs count where both samples have the modality, and n is among those that have it."""
    fusion = build("QMF", {"rank_margin": rank_margin, "rank_weight": 3.0}, 3)
    (scores, target), mask = draw(fusion), mixed(3)
    expected = 0.0
    confidence = (scores.logsumexp(dim=2) / 10).tolist()
    losses = F.cross_entropy(scores.mT, target[:, None].expand(-1, 3), reduction="none").tolist()
    for i in range(BATCH):
        fused = sum((confidence[i][m] * scores[i, m] for m in range(3) if mask[i, m]), torch.zeros(CLASSES).double())
        expected += sum(losses[i][m] for m in range(3) if mask[i, m]) + float(F.cross_entropy(fused, target[i]))
        j = (i + 1) % BATCH
        for m in range(3):
            if mask[i, m] and mask[j, m]:
                among = [losses[k][m] for k in range(BATCH) if mask[k, m]]
                d = (losses[i][m] - losses[j][m]) / (max(among) - min(among))
                c = confidence[i][m] - confidence[j][m]
                expected += 3.0 * max(0.0, math.copysign(1, d) * (c - d if rank_margin == "released" else c + d))
    got = fusion(with_nan(scores, mask), target, mask=mask)
    assert got.item() == pytest.approx(expected / BATCH, rel=1e-10)
