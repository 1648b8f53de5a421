"""Multinomial logistic regression, by scikit-learn."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

ABSENT_CLASS_LOGIT = -100.0
MAX_ITERATIONS = 5_000
# Largest gradient of the mean loss at which the fit ends. scikit-learn's own 1e-4 ends a weak penalty on hundreds of
# features early: on one split of Table 7's digits at C = 1 a test sample's probabilities are up to 0.35 off, the NLL is
# 0.062 for 0.051. Of a few scores 1e-4 leaves them within 0.015.
TOLERANCE = 1e-6
TOLERANCE_OF_SCORES = 1e-4
# What `cross_fitted` tries for C.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SMALLEST = 1e-6  # probability whose logarithm is taken


def fit_logistic(
    features: Tensor, target: Tensor, num_classes: int, C: float, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor]:
    """Weights (num_classes, D) and biases (num_classes,) with an L2 penalty of 1 / C, on the CPU.

    A class without training samples is given a logit of -100; so samples of one class alone give it whatever the
    features are. Without any sample all is 0.
    """
    if not len(target):
        return torch.zeros(num_classes, features.shape[1]), torch.zeros(num_classes)
    return _coefficients(_fit(features.cpu().double().numpy(), target.cpu().numpy(), C, tolerance), num_classes)


def cross_fitted(
    features: Tensor, target: Tensor, num_classes: int, penalties: Sequence[float] = PENALTIES, folds: int = 5
) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """Weights and biases as `fit_logistic` gives them, with the C whose out-of-fold NLL over shuffled stratified folds
    is least, and the log-probabilities (N, num_classes) that those folds gave, at least ln 1e-6: of every sample by a
    model that has not seen it.

    With fewer samples than features all is computed in the space that the samples span, where the penalty is the same:
    a tenth of the time.
    """
    x, y = features.cpu().double().numpy(), target.cpu().numpy()
    basis = None
    if x.shape[0] < x.shape[1]:
        u, singular, basis = np.linalg.svd(x, full_matrices=False)
        x = u * singular
    # A class too small to be in every fold is still split: scikit-learn warns, and asks for two folds at least.
    smallest = int(np.bincount(y)[np.unique(y)].min())
    splits = list(StratifiedKFold(max(2, min(folds, smallest)), shuffle=True, random_state=0).split(x, y))
    found = []
    for C in penalties:
        out_of_fold = np.full((len(y), num_classes), np.log(SMALLEST))
        for train, held_out in splits:
            model = _fit(x[train], y[train], C)
            out_of_fold[held_out[:, None], model.classes_] = np.log(model.predict_proba(x[held_out]).clip(SMALLEST))
        found.append((-out_of_fold[np.arange(len(y)), y].mean(), C, out_of_fold))
        if found[-1][0] > 1.2 * min(loss for loss, *_ in found):
            break  # well past the minimum: a larger C only overfits more, and takes longest
    _, C, out_of_fold = min(found, key=lambda one: one[0])
    weight, bias = _coefficients(_fit(x, y, C), num_classes)
    return weight if basis is None else (weight.double() @ torch.from_numpy(basis)).float(), bias, out_of_fold


def _fit(
    x: NDArray[np.float64], y: NDArray[np.int64], C: float, tolerance: float = TOLERANCE
) -> LogisticRegression | DummyClassifier:
    """The model; where all samples are of one class, which scikit-learn's regression refuses, one that says so."""
    one_class = (y == y[0]).all()
    model = DummyClassifier() if one_class else LogisticRegression(C=C, tol=tolerance, max_iter=MAX_ITERATIONS)
    return model.fit(x, y)


def _coefficients(model: LogisticRegression | DummyClassifier, num_classes: int) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(num_classes, model.n_features_in_)
    bias = torch.full((num_classes,), ABSENT_CLASS_LOGIT)
    bias[model.classes_] = 0
    if len(model.classes_) > 1:
        rows = model.classes_[-len(model.coef_) :]  # of two classes scikit-learn keeps only the logit of the second
        weight[rows] = torch.from_numpy(model.coef_).float()
        bias[rows] = torch.from_numpy(model.intercept_).float()
    return weight, bias
