"""The multitask loss, its ensemble, and logistic regression, against scikit-learn and plain sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from multimodal_loss.training.logistic import fit_logistic, train_logistic
from sklearn.linear_model import LogisticRegression

from multimodal_loss.backbones import MLP, Linear
from multimodal_loss.datasets import MultimodalData, Split
from multimodal_loss.errors import UserError
from multimodal_loss.fusion import Multitask, SumCrossEntropy, Unimodal
from multimodal_loss.training.evaluate import fit_ensemble, predict, scores_of
from multimodal_loss.training.replicate import Replicate, make_replicate

CPU = torch.device("cpu")


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


def multitask(classes: int = 3) -> Replicate:
    return make_replicate(
        0,
        0,
        None,
        data(classes),
        lambda d: MLP(d.feature_shapes, classes, (5,)),
        Multitask,
    )


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


@pytest.mark.parametrize("classes", [2, 3])
def test_ensemble_by_logistic_regression_is_scikit_learns(classes: int) -> None:
    """Fitted on the training outputs of both heads side by side, applied to the test outputs."""
    replicate = multitask(classes)
    fit_ensemble(replicate, CPU)
    split = replicate.data
    train, test = (scores_of(replicate, s, CPU).softmax(-1).flatten(1).numpy() for s in (split.train, split.test))
    model = LogisticRegression(max_iter=5_000).fit(train, split.train.target.numpy())
    fused = predict(replicate, split.test, "logits", CPU)["fused"]
    np.testing.assert_allclose(fused, model.predict_proba(test), atol=2e-4)
    assert "ensemble_weight" in replicate.state_dict()["fusion"]


def test_ensemble_is_not_fitted_to_test_samples() -> None:
    weights = []
    for shift in (0.0, 5.0):
        replicate = multitask()
        test = replicate.data.test
        object.__setattr__(test, "inputs", tuple(x + shift for x in test.inputs))
        fit_ensemble(replicate, CPU)
        weights.append(replicate.fusion.ensemble_weight.clone())
    assert torch.equal(weights[0], weights[1])
    assert weights[0].abs().sum() > 0


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_baseline_is_scikit_learns(classes: int) -> None:
    replicate = make_replicate(0, 0, None, data(classes), lambda d: Linear(d.feature_shapes, classes), Unimodal)
    stopped = train_logistic(replicate, C=0.05, kind="logits")
    split = replicate.data
    train, test = (torch.cat(s.inputs, dim=1).double().numpy() for s in (split.train, split.test))
    model = LogisticRegression(C=0.05, max_iter=5_000).fit(train, split.train.target.numpy())
    fused = predict(replicate, split.test, "logits", CPU)["fused"]
    np.testing.assert_allclose(fused, model.predict_proba(test), atol=1e-5)
    assert stopped["stopped"] == "fitted" and replicate.score_names == ("joint",)


def test_a_class_without_training_samples_is_never_predicted() -> None:
    weight, bias = fit_logistic(torch.randn(20, 4), torch.arange(20) % 2 * 2, num_classes=4, C=1.0)
    probabilities = (torch.randn(50, 4) @ weight.T + bias).softmax(-1)
    assert set(probabilities.argmax(-1).tolist()) <= {0, 2}
    assert probabilities[:, [1, 3]].max() < 1e-6


def test_trainer_logistic_refuses_another_network() -> None:
    replicate = make_replicate(0, 0, None, data(), lambda d: MLP(d.feature_shapes, 3, (5,)), SumCrossEntropy)
    with pytest.raises(UserError, match="backbone=linear fusion=unimodal"):
        train_logistic(replicate, C=1.0, kind="logits")
