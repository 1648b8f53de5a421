"""Logistic regression, by scikit-learn: the baseline of the TCGA tables and the ensemble of the multitask rows."""

import time
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from multimodal_loss.backbones import Linear
from multimodal_loss.errors import UserError, require_number
from multimodal_loss.fusion import Unimodal
from multimodal_loss.training.replicate import FusionInput, Replicate

ABSENT_CLASS_LOGIT = -100.0
MAX_ITERATIONS = 5_000


def fit_logistic(features: Tensor, target: Tensor, num_classes: int, C: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L2 penalty of 1 / C (scikit-learn): weights (num_classes, D), bias.

    A class without training samples is given a logit of -100.
    """
    model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS)
    model.fit(features.double().numpy(), target.cpu().numpy())
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps only the logit of the second class
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    weight = torch.zeros(num_classes, features.shape[1])
    bias = torch.full((num_classes,), ABSENT_CLASS_LOGIT)
    weight[model.classes_] = torch.from_numpy(coefficients).float()
    bias[model.classes_] = torch.from_numpy(intercepts).float()
    return weight, bias


def train_logistic(replicate: Replicate, C: float, kind: FusionInput) -> dict[str, Any]:
    """Put the fitted coefficients into the linear backbone; what the epoch loop says of a replicate that has ended."""
    require_number("trainer.C", C, positive=True)
    # Of probabilities the loss would take a second softmax.
    if kind != "logits" or not isinstance(replicate.backbone, Linear) or not isinstance(replicate.fusion, Unimodal):
        raise UserError("trainer=logistic needs backbone=linear fusion=unimodal fusion.input=logits")
    started = time.monotonic()
    train, layer = replicate.data.train, replicate.backbone.layer
    features = torch.cat([x.flatten(1) for x in train.rows(slice(None))], dim=1)
    weight, bias = fit_logistic(features, train.target, layer.out_features, C)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        loss = float(replicate.fusion(replicate.backbone([features]), train.target))
    return {"epochs": 0, "stopped": "fitted", "seconds": time.monotonic() - started, "last_loss": loss}
