"""The read-out of each modality's scores, and whether trust follows noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from multimodal_loss import ReadOut
from multimodal_loss.results.metrics import distrust_auc
from test_tuning import TWO_RATES, trained, weights, write_study


def test_it_is_a_logistic_regression_on_standardised_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(120) % 3
    scores = torch.randn(120, 2, 3, generator=generator) * torch.tensor([1.0, 50.0])[:, None] + 7
    scores[:, 1] -= 120 * torch.nn.functional.one_hot(target, 3)  # the wrong way round: its argmax is never the class
    read_out = ReadOut(3, 2).fit(scores, target)
    for m in range(2):
        x = scores[:, m].double().numpy()
        x = (x - x.mean(0)) / x.std(0)
        expected = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(x, target.numpy()).predict_proba(x)
        np.testing.assert_allclose(read_out(scores)[:, m], expected, atol=5e-3)
    assert (scores[:, 1].argmax(1) == target).float().mean() < 0.2
    assert (read_out(scores)[:, 1].argmax(1) == target).float().mean() > 0.7


def test_ignored_samples_and_constant_scores() -> None:
    scores, target = torch.randn(30, 1, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    scores[:, 0, 3] = 5.0
    ignored = torch.where(torch.arange(30) < 10, -100, target)
    first, second = ReadOut(4, 1).fit(scores, ignored), ReadOut(4, 1).fit(scores[10:], target[10:])
    assert torch.equal(first(scores), second(scores)) and first(scores).isfinite().all()
    with pytest.raises(RuntimeError):
        first(scores[:, :, :2])


@pytest.mark.filterwarnings("error")
def test_a_modality_with_samples_of_one_class_or_none() -> None:
    scores, target = torch.randn(9, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    mask = torch.stack([torch.full((9,), True), target == 1, torch.full((9,), False)], dim=1)
    read_out = ReadOut(3, 3).fit(scores, target, mask=mask)
    assert torch.equal(read_out(scores)[:, 0], ReadOut(3, 1).fit(scores[:, :1], target)(scores[:, :1])[:, 0])
    torch.testing.assert_close(read_out(scores)[:, 1], torch.tensor([[0.0, 1.0, 0.0]]).expand(9, 3))
    assert read_out.bias[1].tolist() == [-100, 0, -100]
    nothing = ReadOut(3, 3).fit(scores, torch.full((9,), -100))(scores)
    assert (read_out(scores)[:, 2] == 1 / 3).all() and (nothing == 1 / 3).all()


def test_a_run_reads_out_its_modalities_and_keeps_how(tmp_path: Path) -> None:
    directory, replicate = trained(
        write_study(tmp_path / "study"), tmp_path / "runs", "method=multimodal", "backbone=linear", TWO_RATES
    )
    metrics = replicate["metrics"]["test"]
    assert metrics["read_out"].keys() == metrics["modalities"].keys() == {"m0", "m1"}
    stored = np.load(directory.predictions)
    read_out = stored["1/read_out"]
    assert metrics["read_out"]["m0"]["ACC"] == pytest.approx((read_out[:, 0].argmax(1) == stored["1/target"]).mean())
    kept = {name: tensor for name, tensor in weights(directory).items() if name.startswith("read_out")}
    assert kept.keys() == {"read_out.weight", "read_out.bias"} and kept["read_out.weight"].abs().sum() > 0


def test_distrust_is_the_area_under_the_curve_of_small_weights() -> None:
    rng = np.random.default_rng(0)
    replaced = rng.integers(-1, 3, 200)
    weights = rng.dirichlet(np.ones(3), 200)
    which = replaced[:, None] == np.arange(3)
    assert distrust_auc(weights, replaced) == pytest.approx(roc_auc_score(which.ravel(), -weights.ravel()))
    assert distrust_auc(np.where(which, 0.1, 0.4), replaced) == 1
    assert distrust_auc(np.full((200, 3), 1 / 3), replaced) == 0.5
    assert distrust_auc(weights, np.full(200, -1)) is None
