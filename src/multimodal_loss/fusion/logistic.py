"""Multinomial logistic regression, by scikit-learn."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

ABSENT_CLASS_LOGIT = -100.0
MAX_ITERATIONS = 5_000


def fit_logistic(features: Tensor, target: Tensor, num_classes: int, C: float) -> tuple[Tensor, Tensor]:
    """Weights (num_classes, D) and biases (num_classes,) with an L2 penalty of 1 / C, on the CPU.

    A class without training samples is given a logit of -100.
    """
    model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS)
    model.fit(features.cpu().double().numpy(), target.cpu().numpy())
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps only the logit of the second class
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    weight = torch.zeros(num_classes, features.shape[1])
    bias = torch.full((num_classes,), ABSENT_CLASS_LOGIT)
    weight[model.classes_] = torch.from_numpy(coefficients).float()
    bias[model.classes_] = torch.from_numpy(intercepts).float()
    return weight, bias
