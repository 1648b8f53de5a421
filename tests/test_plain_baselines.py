"""Baselines that are fitted: against scikit-learn and numpy written out."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression as Sklearn
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from multimodal_loss.backbones import Boosting, LogisticRegression, ModalityLogistic
from multimodal_loss.errors import UserError
from multimodal_loss.fusion.logistic import PENALTIES, cross_fitted, fit_logistic
from multimodal_loss.results.metrics import fit_temperature, tempered

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def made(samples: int = 90, widths: tuple[int, ...] = (4, 6)) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(samples) % 3
    signal = torch.nn.functional.one_hot(target).float()
    inputs = [torch.randn(samples, width, generator=generator) for width in widths]
    for x in inputs:
        x[:, :3] += 0.8 * signal
    return inputs, target


@pytest.mark.parametrize("width", [5, 200])
def test_the_penalty_is_that_of_a_plain_search_also_in_the_space_of_the_samples(width: int) -> None:
    (x,), y = made(widths=(width,))
    wide, labels = x.double().numpy(), y.numpy()
    losses = {}
    for C in PENALTIES:
        p = cross_val_predict(Sklearn(C=C, max_iter=5000), wide, labels, cv=FOLDS, method="predict_proba")
        losses[C] = log_loss(labels, p)
    best = min(losses, key=losses.__getitem__)
    model = Sklearn(C=best, max_iter=5000, tol=1e-8).fit(wide, labels)
    weight, bias, out_of_fold = cross_fitted(x, y, 3)
    assert -out_of_fold[np.arange(90), labels].mean() == pytest.approx(losses[best], abs=1e-3)
    logits = (x @ weight.T + bias).log_softmax(1)
    np.testing.assert_allclose(logits, model.predict_log_proba(wide), atol=0.02)


def test_the_regression_is_the_minimum_of_its_loss() -> None:
    """Cross-entropy summed over samples and the squared weights / 2C, minimised in float64 until nothing moves."""
    images, target = load_digits(return_X_y=True)
    x = torch.from_numpy(StandardScaler().fit_transform(images))
    y, C = torch.from_numpy(target), 1.0
    parameters = torch.zeros(10, 65, dtype=torch.float64, requires_grad=True)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters.data, parameters.grad = torch.from_numpy(flat).view(10, 65), None
        logits = x @ parameters[:, :64].T + parameters[:, 64]
        value = (
            torch.nn.functional.cross_entropy(logits, y, reduction="sum") + parameters[:, :64].square().sum() / 2 / C
        )
        value.backward()
        return value.item(), parameters.grad.flatten().numpy()

    found = minimize(
        loss, np.zeros(650), jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "ftol": 0, "maxiter": 20_000}
    )
    exact = torch.from_numpy(found.x).view(10, 65)
    weight, bias = fit_logistic(x, y, 10, C)
    probabilities = (x @ weight.double().T + bias.double()).softmax(1)
    assert (probabilities - (x @ exact[:, :64].T + exact[:, 64]).softmax(1)).abs().max() < 2e-3


def test_a_class_too_small_for_every_fold_and_one_without_samples() -> None:
    (x, _), y = made()
    y = torch.where(y == 2, 3, y)
    y[:2] = torch.tensor([4, 4])  # two samples of class 4, none of class 2
    weight, bias, out_of_fold = cross_fitted(x, y, 5)
    assert bias[2] == -100 and weight.isfinite().all() and np.isfinite(out_of_fold).all()


def test_samples_of_one_class_and_a_fold_that_is_left_with_one() -> None:
    (x, _), _ = made()
    weight, bias, out_of_fold = cross_fitted(x[:30], torch.ones(30, dtype=torch.int64), 3)
    assert not weight.any() and bias.tolist() == [-100, 0, -100] and (out_of_fold.argmax(1) == 1).all()
    with pytest.warns(UserWarning, match="only 1 members"):
        weight, bias, out_of_fold = cross_fitted(x, (torch.arange(90) == 5).long(), 2)
    assert weight.isfinite().all() and np.isfinite(out_of_fold).all()


def test_stacking_is_a_regression_on_what_the_modalities_say_out_of_fold() -> None:
    inputs, target = made()
    backbone = ModalityLogistic([(4,), (6,)], 3, combination="stacking")
    backbone.fit(inputs, target)
    held_out = [cross_fitted(x, target, 3)[2] for x in inputs]
    meta = Sklearn(C=1.0, max_iter=5000).fit(np.concatenate(held_out, axis=1), target.numpy())
    np.testing.assert_allclose(backbone.stacked.weight.detach(), meta.coef_, atol=1e-2)
    scores = backbone(inputs)
    assert scores.shape == (90, 1, 3)
    alone = [x @ layer.weight.T + layer.bias for layer, x in zip(backbone.layers, inputs, strict=True)]
    said = torch.cat([a.log_softmax(1) for a in alone], dim=1).detach().numpy()
    np.testing.assert_allclose(scores[:, 0].softmax(-1).detach(), meta.predict_proba(said), atol=1e-2)


def test_the_mean_is_of_tempered_probabilities_and_the_best_is_one_modality() -> None:
    inputs, target = made(widths=(3, 30))
    inputs[1] = torch.randn(90, 30, generator=torch.Generator().manual_seed(1))  # says nothing
    mean, best = (ModalityLogistic([(3,), (30,)], 3, combination=c) for c in ("mean", "best"))
    mean.fit(inputs, target)
    best.fit(inputs, target)
    logits = [x @ layer.weight.T + layer.bias for layer, x in zip(mean.layers, inputs, strict=True)]
    expected = sum((z / t).softmax(1) for z, t in zip(logits, mean.temperatures, strict=True)) / 2
    torch.testing.assert_close(mean(inputs)[:, 0].softmax(-1) * 1.0, expected)
    assert best.chosen == 0
    torch.testing.assert_close(best(inputs)[:, 0], logits[0])


def test_boosting_is_scikit_learns() -> None:
    inputs, target = made()
    backbone = Boosting([(4,), (6,)], 4, iterations=20, bins=16)
    backbone.fit(inputs, target)
    x = torch.cat(inputs, dim=1).numpy()
    oracle = HistGradientBoostingClassifier(max_iter=20, early_stopping=True, random_state=0, max_bins=16)
    model = oracle.fit(x, target.numpy())
    probabilities = backbone(inputs)[:, 0].softmax(-1).numpy()
    np.testing.assert_allclose(probabilities[:, :3], model.predict_proba(x), atol=1e-5)
    assert (probabilities[:, 3] < 1e-9).all()  # a class that it has not seen
    with pytest.raises(UserError, match=r"backbone\.bins=256: must be a whole number from 2 to 255"):
        Boosting([(4,), (6,)], 4, bins=256)


@pytest.mark.parametrize(
    "target", [torch.tensor([0] * 59 + [2]), torch.arange(30) % 5, torch.ones(60, dtype=torch.int64)], ids=str
)
def test_boosting_holds_nothing_out_where_a_class_would_be_missing_from_a_part(target: torch.Tensor) -> None:
    """One sample of a class; more classes than a tenth of the samples; one class alone."""
    (x,), _ = made(len(target), (4,))
    backbone = Boosting([(4,)], 5, iterations=20)
    backbone.fit([x], target)
    probabilities = backbone([x])[:, 0].exp()
    present = target.unique()
    assert probabilities[:, present].sum(1).allclose(torch.ones(len(target)), atol=1e-5)
    assert probabilities.gather(1, target[:, None]).mean() > 1 / len(present) - 1e-6


def test_logistic_regression_chooses_its_penalty_where_none_is_given() -> None:
    inputs, target = made()
    backbone = LogisticRegression([(4,), (6,)], 3, C=None)
    backbone.fit(inputs, target)
    weight, bias, _ = cross_fitted(torch.cat(inputs, dim=1), target, 3)
    assert torch.equal(backbone.layer.weight, weight) and torch.equal(backbone.layer.bias, bias)


def test_a_temperature_is_the_best_of_a_fine_search_and_undoes_another() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(400, 3)), rng.integers(0, 3, 400)
    logits[np.arange(400), target] += 1
    p = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    found = fit_temperature(target, p)
    searched = np.geomspace(0.3, 10, 251)
    losses = [log_loss(target, np.exp(np.log(p) / t) / np.exp(np.log(p) / t).sum(1, keepdims=True)) for t in searched]
    assert found == pytest.approx(searched[int(np.argmin(losses))], rel=0.02)
    assert fit_temperature(target, tempered(p, found)) == pytest.approx(1, abs=1e-3)
    assert (tempered(p, found).argmax(1) == p.argmax(1)).all()
    hard = np.array([[1.0, 0.0, 0.0]])  # a probability of 0 has no logarithm
    assert np.isfinite(tempered(hard, 20)).all()
