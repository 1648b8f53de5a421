"""The multitask loss, its ensemble, and logistic regression, against scikit-learn and plain sums."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression as Oracle
from torch import Tensor

from multimodal_loss.backbones import MLP, LogisticRegression
from multimodal_loss.configuration import TrainerConfig
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import Multitask
from multimodal_loss.fusion.logistic import fit_logistic
from multimodal_loss.training.evaluate import evaluate
from multimodal_loss.training.replicate import Recipe, make_replicate


def data(classes: int = 3, samples: int = 90) -> MultimodalData:
    generator = torch.Generator().manual_seed(2)
    target = torch.arange(samples) % classes
    inputs = []
    for width in (4, 6):
        centres = torch.randn(classes, width, generator=generator)
        inputs.append(centres[target] + torch.randn(samples, width, generator=generator))
    train = Split(tuple(x[:60] for x in inputs), target[:60])
    test = Split(tuple(x[60:] for x in inputs), target[60:])
    return MultimodalData(train, None, test, ("a", "b"), tuple(map(str, range(classes))), "toy")


def evaluated(toy: MultimodalData) -> tuple[Multitask, dict[str, Any]]:
    """A multitask fusion after the evaluation of an untrained network on it, and the test predictions."""
    classes = len(toy.classes)
    replicate = make_replicate(0, 0, None, toy, lambda d: MLP(d.feature_shapes, classes, (5,)), Multitask)
    recipe = Recipe(torch.optim.Adam, TrainerConfig(None, 1, 0.0, 1), "logits")
    predictions, _ = evaluate(replicate, recipe, torch.device("cpu"), with_training_outputs=True)
    assert isinstance(replicate.fusion, Multitask)
    return replicate.fusion, predictions


def test_loss_is_the_sum_of_the_modalities_losses() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(7, 2, 3, dtype=torch.float64), torch.arange(7) % 3
    expected = F.cross_entropy(scores[:, 0], target) + F.cross_entropy(scores[:, 1], target)
    torch.testing.assert_close(Multitask(3, 2)(scores, target), expected)
    doubled = sum(F.nll_loss(scores[:, m].softmax(-1).log_softmax(-1), target) for m in (0, 1))
    torch.testing.assert_close(Multitask(3, 2, loss="cross_entropy_of_probabilities")(scores, target), doubled)


def test_ensemble_by_mean_is_the_mean_of_the_probabilities() -> None:
    scores = torch.randn(7, 2, 3, dtype=torch.float64)
    probabilities = Multitask(3, 2, ensemble="mean").probabilities(scores)
    torch.testing.assert_close(probabilities, scores.softmax(-1).mean(dim=1))


def test_until_the_ensemble_is_fitted_it_is_the_mean() -> None:
    """It was uniform, so that training stopped by validation kept its first epoch."""
    scores, mask = torch.randn(40, 2, 3, dtype=torch.float64), torch.ones(40, 2, dtype=torch.bool)
    mask[::4, 0] = False
    logistic, mean = Multitask(3, 2), Multitask(3, 2, ensemble="mean")
    for given in (None, mask):
        torch.testing.assert_close(logistic.probabilities(scores, given), mean.probabilities(scores, given))
    logistic.after_training(lambda: scores, torch.arange(40) % 3)
    assert not torch.allclose(logistic.probabilities(scores), mean.probabilities(scores), atol=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_ensemble_by_logistic_regression_is_scikit_learns(classes: int) -> None:
    """Fitted on the training outputs of both heads side by side, applied to the test outputs."""
    fusion, predictions = evaluated(data(classes))
    train, test = (predictions[key].reshape(-1, 2 * classes) for key in ("train_modalities", "modalities"))
    model = Oracle(max_iter=5_000).fit(train, predictions["train_target"])
    np.testing.assert_allclose(predictions["fused"], model.predict_proba(test), atol=2e-4)
    assert "ensemble_weight" in fusion.state_dict()


def test_ensemble_is_fitted_to_neither_test_samples_nor_ignored_ones() -> None:
    toy, shifted = data(), data()
    object.__setattr__(shifted, "test", Split(tuple(x + 5 for x in toy.test.inputs), toy.test.target))
    (first, _), (second, _) = evaluated(toy), evaluated(shifted)
    assert torch.equal(first.ensemble_weight, second.ensemble_weight) and first.ensemble_weight.any()
    scores, target = torch.randn(40, 2, 3), torch.arange(40) % 3
    fitted = []
    for ignored in (False, True):
        fusion = Multitask(3, 2)
        x, y = scores, target
        if ignored:
            x, y = torch.cat([scores, 9 * torch.randn(5, 2, 3)]), torch.cat([target, torch.full((5,), -100)])
        fusion.after_training(lambda x=x: x, y)  # type: ignore[misc]
        fitted.append(fusion.ensemble_weight)
    assert torch.equal(fitted[0], fitted[1])


def test_an_ensemble_of_one_class_says_so_and_one_of_no_sample_stays_the_mean() -> None:
    scores = torch.randn(6, 2, 3)
    for y, expected in ((1, torch.tensor([0.0, 1.0, 0.0]).expand(6, 3)), (-100, scores.softmax(-1).mean(1))):
        fusion = Multitask(3, 2)
        fusion.after_training(lambda: scores, torch.full((6,), y))
        torch.testing.assert_close(fusion.probabilities(scores), expected)


def side_by_side(split: Split) -> Tensor:
    return torch.cat(split.inputs, dim=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_scikit_learns(classes: int) -> None:
    toy = data(classes)
    backbone = LogisticRegression(toy.feature_shapes, classes, C=0.05)
    backbone.fit(toy.train.inputs, toy.train.target)
    model = Oracle(C=0.05, tol=1e-6, max_iter=5_000).fit(
        side_by_side(toy.train).double().numpy(), toy.train.target.numpy()
    )
    got = backbone(toy.test.inputs)
    assert got.shape == (30, 1, classes) and backbone.joint and backbone.deterministic
    expected = model.predict_proba(side_by_side(toy.test).double().numpy())
    np.testing.assert_allclose(got.softmax(-1).detach()[:, 0].numpy(), expected, atol=1e-5)
    if classes > 2:
        assert torch.equal(backbone.layer.weight, torch.from_numpy(model.coef_).float())
    with pytest.raises(UserError, match=r"backbone\.C=0"):
        LogisticRegression(toy.feature_shapes, classes, C=0)


def test_a_class_without_training_samples_is_never_predicted() -> None:
    weight, bias = fit_logistic(torch.randn(20, 4), torch.arange(20) % 2 * 2, num_classes=4, C=1.0)
    probabilities = (torch.randn(50, 4) @ weight.T + bias).softmax(-1)
    assert set(probabilities.argmax(-1).tolist()) <= {0, 2}
    assert probabilities[:, [1, 3]].max() < 1e-6


def test_affine_layers_are_those_of_a_linear_network_alone() -> None:
    network = MLP([(4,), (6,)], 3, hidden=(5,))
    layers = network.affine_layers()
    assert layers is not None
    x = [torch.randn(7, 4), torch.randn(7, 6)]
    by_hand = [second(first(value)) for (first, second), value in zip(layers, x, strict=True)]
    assert torch.equal(network(x), torch.stack(by_hand, dim=1))
    assert MLP([(4,)], 3, hidden=(5,), activation="relu").affine_layers() is None
