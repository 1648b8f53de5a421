"""`reduction`, class `weight` and `label_smoothing`, against torch.nn.functional.cross_entropy and by themselves."""

import inspect
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_loss import fusion as fusions
from multimodal_loss.fusion import Fusion, MultiModalLoss, base

CLASSES, BATCH = 4, 9
EXACT = {"rtol": 1e-10, "atol": 1e-10}
WEIGHT = [0.5, 2.0, 0.0, 1.25]
# Whose loss is the cross-entropy of its logits.
PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("SumCrossEntropy", {}),
    ("WeightedSumCrossEntropy", {}),
    ("ConcatenationCrossEntropy", {}),
    ("Unimodal", {}),
    ("MMCosine", {}),
    ("SoftTriple", {"margin": 0.0}),
    ("MultiModalLoss", {}),
    ("MultiModalLoss", {"variant": "paper", "attention": "hard_per_class"}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("SoftTriple", {}),
    ("Multitask", {}),
    ("Mulmix", {}),
    ("Mulmix", {"num_modalities": 7}),
    ("Mulmix", {"num_modalities": 7, "candidate_reduction": "sum"}),
    ("TMC", {}),
    ("ECML", {}),
    ("FUML", {}),
]
COMBINATIONS = list(itertools.product(["mean", "sum", "none"], [None, WEIGHT], [0.0, 0.2]))


def build(kind: str, options: dict[str, Any], **further: Any) -> Fusion:
    torch.manual_seed(0)
    modalities = 1 if kind == "Unimodal" else 3
    fusion: Fusion = getattr(fusions, kind)(
        **{"num_classes": CLASSES, "num_modalities": modalities, **options}, **further
    )
    fusion.begin_epoch(5, 0)
    return fusion.double()


def draw(fusion: Fusion) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(BATCH, fusion.num_modalities, CLASSES, generator=generator, dtype=torch.float64)
    return scores.softmax(-1).requires_grad_(), torch.tensor([0, 1, -100, 3, 2, 1, -100, 3, 3])


def gradients(loss: Tensor, scores: Tensor, fusion: Fusion, incoming: Tensor | None = None) -> list[Tensor]:
    return [*torch.autograd.grad(loss, [scores, *fusion.parameters()], incoming)]


def assert_near(ours: list[Tensor], others: list[Tensor]) -> None:
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.fixture(params=[True, False], ids=["look", "no_look"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the host does not look at targets, as on an accelerator."""
    if not request.param:
        monkeypatch.setattr(base, "_can_look", lambda values: False)


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize(("kind", "options"), PLAIN, ids=str)
def test_equals_cross_entropy_of_the_logits(kind: str, options: dict[str, Any]) -> None:
    for reduction, weight, smoothing in COMBINATIONS:
        fusion = build(kind, options, reduction=reduction, weight=weight, label_smoothing=smoothing)
        scores, target = draw(fusion)
        of_torch = {
            "weight": None if weight is None else torch.tensor(weight).double(),
            "reduction": reduction,
            "label_smoothing": smoothing,
        }
        expected = F.cross_entropy(fusion.logits(scores), target, **of_torch)
        loss = fusion(scores, target)
        torch.testing.assert_close(loss, expected, **EXACT)
        incoming = torch.rand(loss.shape, dtype=torch.float64)
        assert_near(gradients(loss, scores, fusion, incoming), gradients(expected, scores, fusion, incoming))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equals_the_formula_written_as_loops(smoothing: float) -> None:
    fusion = build("MultiModalLoss", {}, weight=WEIGHT, label_smoothing=smoothing)
    scores, target = draw(fusion)
    log_p = fusion.logits(scores).log_softmax(dim=1).tolist()
    total = norm = 0.0
    for row, y in zip(log_p, target.tolist(), strict=True):
        if y != -100:
            truth = [smoothing / CLASSES + (1 - smoothing) * (c == y) for c in range(CLASSES)]
            total -= sum(w * q * value for w, q, value in zip(WEIGHT, truth, row, strict=True))
            norm += WEIGHT[y]
    assert fusion(scores, target).item() == pytest.approx(total / norm, rel=1e-12)


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "options"), PLAIN[:-1] + OTHERS, ids=str)
def test_every_reduction_is_made_of_the_losses_of_single_samples(
    kind: str, options: dict[str, Any], masked: bool
) -> None:
    fusion = build(kind, options)
    scores, target = draw(fusion)
    mask = torch.rand(scores.shape[:2], generator=torch.Generator().manual_seed(2)) > 0.4
    mask[~mask.any(dim=1), 0] = True
    masks: dict[str, Tensor] = {"mask": mask} if masked else {}
    rows = [slice(i, i + 1) for i in range(BATCH)]
    losses = [fusion(scores[row], target[row], **{name: m[row] for name, m in masks.items()}) for row in rows]
    kept = (target != -100).double()
    of_class = torch.tensor(WEIGHT).double()[target.clamp(min=0)]
    incoming = torch.rand(BATCH, dtype=torch.float64)
    for weight, of_sample in ((None, kept), (WEIGHT, kept * of_class)):
        weighted = torch.stack(losses) * of_sample
        expected = {"mean": weighted.sum() / of_sample.sum(), "sum": weighted.sum(), "none": weighted}
        for reduction, wanted in expected.items():
            one = build(kind, options, reduction=reduction, weight=weight)
            one.load_state_dict(fusion.state_dict(), strict=False)
            loss = one(scores, target, **masks)
            torch.testing.assert_close(loss, wanted, **EXACT)
            over = incoming if reduction == "none" else None
            by_sample = torch.autograd.grad(wanted, [scores, *fusion.parameters()], over, retain_graph=True)
            assert_near(gradients(loss, scores, one, over), [*by_sample])


def test_soft_triples_regulariser_is_added_once() -> None:
    scores, target = draw(build("SoftTriple", {}))
    for reduction in ("mean", "sum", "none"):
        loss, plain = (build("SoftTriple", {"tau": tau}, reduction=reduction)(scores, target) for tau in (0.2, 0.0))
        spread = 0.2 * build("SoftTriple", {})._proxy_spread()  # type: ignore[operator]
        kept = (target != -100).double() if reduction == "none" else 1.0
        torch.testing.assert_close(loss, plain + spread * kept, **EXACT)


@pytest.mark.usefixtures("look")
def test_without_any_weight_the_mean_is_zero() -> None:
    for kind, options in PLAIN + OTHERS:
        fusion = build(kind, options, weight=[0.0, 1.0, 1.0, 1.0])
        scores, _ = draw(fusion)
        loss = fusion(scores, torch.zeros(BATCH, dtype=torch.int64))
        assert loss.item() == 0 and not any(g.any() for g in gradients(loss, scores, fusion))


def test_an_empty_batch() -> None:
    for (kind, options), reduction in itertools.product(PLAIN + OTHERS, ("sum", "none")):
        fusion = build(kind, options, reduction=reduction, weight=WEIGHT)
        scores, target = draw(fusion)
        loss = fusion(scores[:0], target[:0])
        assert loss.shape == (() if reduction == "sum" else (0,))
        assert not any(g.any() for g in gradients(loss.sum(), scores, fusion))


def test_double_backward_through_the_fused_loss() -> None:
    fusion = build("MultiModalLoss", {}, reduction="sum", weight=WEIGHT)
    scores, target = draw(fusion)
    assert torch.autograd.gradgradcheck(lambda x: fusion(x, target), (scores,), fast_mode=True)


def test_weights_are_state_and_move_with_the_module() -> None:
    fusion = MultiModalLoss(3, 2, weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert fusion.state_dict()["class_weight"].tolist() == [1, 2, 3] and fusion.class_weight is not None
    assert fusion.class_weight.dtype == torch.float64 and fusion.to("meta").class_weight.is_meta
    assert "class_weight" not in MultiModalLoss(3, 2).state_dict()
    loss = fusions.SumCrossEntropy(3, 2, weight=[1, 2, 3])(torch.rand(2, 2, 3).bfloat16(), torch.tensor([0, 2]))
    assert loss.dtype == torch.float32


def test_who_offers_what() -> None:
    """The others are no mean over samples, work on the gradients of one, or have no target to smooth."""
    offered = {
        kind: set(inspect.signature(getattr(fusions, kind)).parameters) & {"reduction", "weight", "label_smoothing"}
        for kind in fusions.__all__
        if kind not in ("Fusion", "ReadOut")
    }
    assert {kind for kind, found in offered.items() if len(found) == 3} == {kind for kind, _ in PLAIN} | {"Multitask"}
    assert {kind for kind, found in offered.items() if found == {"reduction", "weight"}} == {
        "Mulmix",
        "TMC",
        "ECML",
        "FUML",
    }
    for kind in ("ProxyAnchor", "OGMGE", "MMPareto", "QMF"):
        with pytest.raises(TypeError, match="unexpected keyword argument 'reduction'"):
            getattr(fusions, kind)(3, 2, reduction="sum")


def test_repr_shows_what_is_not_as_usual() -> None:
    fusion = MultiModalLoss(3, 2, weight=[1, 2, 3], label_smoothing=0.25, reduction="sum")
    assert repr(fusion).endswith("ignore_index=-100, reduction='sum', weight=[1.0, 2.0, 3.0], label_smoothing=0.25)")
    with pytest.raises(ValueError, match=r"reduction must be one of mean, sum, none, got 'avg'"):
        MultiModalLoss(3, 2, reduction="avg")
    with pytest.raises(ValueError, match=r"label_smoothing must be a number of at least 0 and at most 1, got nan"):
        MultiModalLoss(3, 2, label_smoothing=math.nan)
