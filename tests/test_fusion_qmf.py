"""QMF against its formulas as loops over several epochs, its authors' numbers, and what it remembers."""

import copy
import math

import pytest
import torch
from torch import Tensor

from golden.rivals import golden
from multimodal_loss import QMF
from multimodal_loss.fusion import base

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SAMPLES, MODALITIES, CLASSES = 9, 3, 4


def test_equals_the_authors_numbers_step_by_step() -> None:
    fusion = QMF(4, 2).double()
    for step in range(3):
        case = golden(f"qmf_{step}")
        fusion.begin_epoch(step + 1, int(case["samples"]))
        torch.testing.assert_close(fusion(case["scores"], case["target"], case["index"]), case["loss"], **EXACT)
        torch.testing.assert_close(fusion.logits(case["scores"]), case["fused_logits"], **EXACT)


def batches(epochs: int) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """Two batches an epoch, shuffled, with scores that change."""
    generator = torch.Generator().manual_seed(4)
    target, found = torch.arange(SAMPLES) % CLASSES, []
    for _ in range(epochs):
        order = torch.randperm(SAMPLES, generator=generator)
        parts = []
        for index in (order[:5], order[5:]):
            scores = 3 * torch.randn(len(index), MODALITIES, CLASSES, generator=generator, dtype=torch.float64)
            parts.append((scores, target[index], index))
        found.append(parts)
    return found


def cross_entropy(z: Tensor, y: int) -> float:
    return math.log(sum(math.exp(value) for value in z)) - float(z[y])


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


@pytest.mark.parametrize("rank_margin", ["released", "required"])
@pytest.mark.parametrize("variant", ["text_image", "rgbd"])
def test_equals_its_formulas_written_as_loops(variant: str, rank_margin: str) -> None:
    fusion = QMF(CLASSES, MODALITIES, rank_weight=0.7, variant=variant, rank_margin=rank_margin).double()
    history = [[0.0] * SAMPLES for _ in range(MODALITIES)]
    ranked = 0.0
    for epoch, parts in enumerate(batches(3), start=1):
        fusion.begin_epoch(epoch, SAMPLES)
        for scores, target, index in parts:
            number = len(index)
            confidence = [[math.log(sum(math.exp(v) for v in x)) / 10 for x in sample] for sample in scores]
            expected = 0.0
            for sample, y, of_sample in zip(scores, target.tolist(), confidence, strict=True):
                fused = sum(c * x for c, x in zip(of_sample, sample, strict=True))
                expected += (cross_entropy(fused, y) + sum(cross_entropy(x, y) for x in sample)) / number
            for m in range(MODALITIES):
                new = list(history[m])
                for i, y, sample in zip(index.tolist(), target.tolist(), scores, strict=True):
                    new[i] += cross_entropy(sample[m], y)
                used = new if variant == "text_image" else history[m]
                spread = max(used) - min(used)
                scaled = [(used[i] - min(used)) / spread if spread else 0.0 for i in index.tolist()]
                rank = 0.0
                for i in range(number):
                    j = (i + 1) % number
                    d, c = scaled[i] - scaled[j], confidence[i][m] - confidence[j][m]
                    rank += max(0.0, sign(d) * (c - d if rank_margin == "released" else c + d)) / number
                expected += 0.7 * rank
                ranked += rank
                history[m] = new
            assert fusion(scores, target, index).item() == pytest.approx(expected, rel=1e-11)
    assert ranked > 0.1
    fusion.begin_epoch(4, SAMPLES)
    torch.testing.assert_close(fusion.history, torch.tensor(history, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize(("variant", "flows"), [("text_image", False), ("rgbd", True)])
def test_the_gradient_goes_through_the_weights_in_one_variant(variant: str, flows: bool) -> None:
    (((scores, target, _), _),) = batches(1)
    scores.requires_grad_()
    (got,) = torch.autograd.grad(QMF(CLASSES, MODALITIES, rank_weight=0, variant=variant)(scores, target), scores)
    weights = scores.logsumexp(2, keepdim=True) / 10
    fused = ((weights if flows else weights.detach()) * scores).sum(1)
    loss = torch.nn.functional.cross_entropy(fused, target)
    loss = loss + sum(torch.nn.functional.cross_entropy(x, target) for x in scores.unbind(1))
    torch.testing.assert_close(got, torch.autograd.grad(loss, scores)[0], **EXACT)


def test_a_sample_counts_once_an_epoch_and_only_in_training() -> None:
    """So recomputing a step, as activation checkpointing does, gives the same loss."""
    (((scores, target, index), _),) = batches(1)
    fusion = QMF(CLASSES, MODALITIES).double()
    fusion.begin_epoch(1, SAMPLES)
    first, noted = fusion(scores, target, index), fusion.latest.clone()
    assert fusion(scores, target, index) == first and torch.equal(fusion.latest, noted)
    fusion.begin_epoch(1, SAMPLES)  # goes on
    assert not fusion.history.any() and torch.equal(fusion.latest, noted)
    fusion.eval()(2 * scores, target, index)
    assert torch.equal(fusion.latest, noted)
    fusion.begin_epoch(2, SAMPLES)
    assert torch.equal(fusion.history, noted) and not fusion.latest.any()


def test_pairs_of_the_whole_training_set_change_with_the_epoch() -> None:
    """Stored order is often that of the classes: neighbours would hardly differ."""
    fusion, everything = QMF(CLASSES, 2), torch.arange(97)
    seen = set()
    for epoch in range(1, 41):
        fusion.begin_epoch(epoch, 97)
        partners = fusion._partners(everything, None)
        shift = int(partners[0])
        assert 0 < shift < 97 and torch.equal(partners, (everything + shift) % 97)
        seen.add(shift)
    assert len(seen) > 35
    assert torch.equal(fusion._partners(torch.tensor([7, 3, 9, 50, 51]), None), torch.tensor([1, 2, 3, 4, 0]))


def test_pairs_of_the_whole_training_set_change_with_ignored_samples_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are the same where the host does not look at targets, as on an accelerator."""
    (((scores, target, _), _),) = batches(1)
    scores, target = scores.repeat(4, 1, 1) + torch.arange(20)[:, None, None] * scores[0].sin(), target.repeat(4)
    target[7] = -100
    found: list[list[float]] = []
    for look in (True, False):
        if not look:
            monkeypatch.setattr(base, "_can_look", lambda values: False)
        fusion = QMF(CLASSES, MODALITIES, rank_weight=9, rank_margin="required").double()
        found.append([])
        for epoch in range(1, 5):
            fusion.begin_epoch(epoch, 20)
            for noted in (fusion.history, fusion.latest):
                noted.zero_()  # so that pairs alone change
            found[-1].append(float(fusion(scores, target)))
    assert len({round(loss, 6) for loss in found[0]}) == 4
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_history_is_not_rounded_with_a_fusion_of_half_precision(dtype: torch.dtype) -> None:
    fusion = QMF(2, 1).to(dtype)
    for epoch in range(1, 4):
        fusion.begin_epoch(epoch, 1)
        fusion(torch.tensor([[[1000.25, 0.0]]]), torch.tensor([1]))
        fusion.to(dtype)
    assert fusion.history.item() == 2000.5 and fusion.latest.item() == 1000.25
    assert fusion.history.dtype == fusion.latest.dtype == torch.float32


def test_a_checkpoint_carries_what_it_remembers() -> None:
    epochs = batches(4)

    def run(fusion: QMF, first: int, last: int) -> list[float]:
        losses = []
        for epoch in range(first, last + 1):
            fusion.begin_epoch(epoch, SAMPLES)
            losses += [float(fusion(*part)) for part in epochs[epoch - 1]]
        return losses

    undisturbed, stopped, fresh = (QMF(CLASSES, MODALITIES).double() for _ in range(3))
    expected = run(undisturbed, 1, 4)
    run(stopped, 1, 2)
    fresh.load_state_dict(copy.deepcopy(stopped.state_dict()))
    assert run(fresh, 3, 4) == expected[4:]


def test_weights_are_shares_of_positive_confidence() -> None:
    scores = torch.tensor([[[3.0, 0.0], [-9.0, -9.0]], [[-9.0, -9.0], [-5.0, -5.0]]])
    assert QMF(2, 2).modality_weights(scores).tolist() == [[1.0, 0.0], [0.5, 0.5]]  # type: ignore[union-attr]
