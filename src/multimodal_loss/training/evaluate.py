"""Predictions of replicates, their metrics, and what a fusion wants to know once training is over."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from multimodal_loss.datasets import Split
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.results.metrics import compute_metrics
from multimodal_loss.training.replicate import Recipe, Replicate, as_fusion_input


@torch.no_grad()
def scores_of(replicate: Replicate, split: Split, recipe: Recipe, device: torch.device) -> Tensor:
    """Scores (N, M, C) on `device`, computed in batches so that activations stay small. TrainingError: not finite."""
    was_training = replicate.backbone.training
    replicate.backbone.eval()
    batches = split.batches(None, recipe.trainer.eval_batch_size, device, workers=recipe.workers)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.trainer.amp):
        scores = [replicate.backbone([x.to(device) for x in batch.inputs]) for batch in batches]
    replicate.backbone.train(was_training)
    return _finite(torch.cat(scores), replicate)


def _finite(values: Tensor, replicate: Replicate) -> Tensor:
    """The values. The loss is from before an update: the last update may still have spoilt the weights."""
    if not bool(values.isfinite().all()):
        raise TrainingError(
            f"what replicate {replicate.replicate_id} predicts is not finite; try a smaller optimizer.lr"
        )
    return values


@torch.no_grad()
def predict(replicate: Replicate, split: Split, recipe: Recipe, device: torch.device) -> dict[str, NDArray[Any]]:
    """`target` (N,), and the probabilities `fused` (N, C) and `modalities` (N, M, C)."""
    scores = scores_of(replicate, split, recipe, device)
    return {
        "target": split.target.cpu().numpy(),
        "fused": _fused(replicate, scores, recipe).float().cpu().numpy(),
        "modalities": scores.softmax(-1).float().cpu().numpy(),
    }


def _fused(replicate: Replicate, scores: Tensor, recipe: Recipe) -> Tensor:
    """Fused probabilities (N, C), computed in batches."""
    parts = as_fusion_input(scores, recipe.fusion_input).split(recipe.trainer.eval_batch_size)
    return _finite(torch.cat([replicate.fusion.probabilities(part) for part in parts]), replicate)


def metrics_of(prediction: dict[str, NDArray[Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of the fused prediction and of every score's own."""
    target = prediction["target"]
    per_modality = {name: prediction["modalities"][:, m] for m, name in enumerate(names)}
    return {
        "fused": compute_metrics(target, prediction["fused"]),
        "modalities": {name: compute_metrics(target, np.ascontiguousarray(p)) for name, p in per_modality.items()},
    }


def evaluate(
    replicate: Replicate, recipe: Recipe, device: torch.device, with_training_outputs: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A trained replicate's test predictions, and what result.json says of it: metrics, and the fusion's diagnostics.

    With `with_training_outputs` the predictions also hold `train_target` (N,), `train_modalities` (N, M, C), and what
    the fusion adds.
    """
    data, fusion, names = replicate.data, replicate.fusion, replicate.score_names
    replicate.backbone.to(device).eval()
    fusion.to(device).eval()

    def training_scores() -> Tensor:
        return as_fusion_input(scores_of(replicate, data.train, recipe, device), recipe.fusion_input)

    fusion.after_training(training_scores, data.train.target.to(device))
    test = predict(replicate, data.test, recipe, device)
    metrics = {"test": metrics_of(test, names)}
    for name, (target, fused) in data.test.rescored(test["fused"]).items():
        metrics[f"test_{name}"] = {"fused": compute_metrics(target, fused)}
    if data.validation is not None:
        metrics["validation"] = metrics_of(predict(replicate, data.validation, recipe, device), names)
    if with_training_outputs:
        train = predict(replicate, data.train, recipe, device)
        test |= {"train_target": train["target"], "train_modalities": train["modalities"]}
        test |= {name: array.float().cpu().numpy() for name, array in fusion.extra_arrays().items()}
    diagnostics = fusion.diagnostics(training_scores, data.train.target.to(device))
    return test, {"metrics": metrics, **diagnostics}


def validation_split(replicate: Replicate) -> Split:
    """The replicate's validation rows; a dataset without them cannot be monitored."""
    if replicate.data.validation is None:
        raise UserError("these data have no validation part to monitor: set trainer.monitor=null")
    return replicate.data.validation


class Validation:
    """The replicates' validation parts, moved to the device when first asked for, and their values there."""

    def __init__(self, replicates: Sequence[Replicate], recipe: Recipe, device: torch.device) -> None:
        self._replicates, self._recipe, self._device = replicates, recipe, device
        self._splits: dict[int, Split] = {}

    def values(self, positions: Sequence[int], monitors: Sequence[str]) -> list[list[float]]:
        """A list per monitor of the replicates' values at `positions`, with the weights that their modules hold. All
        monitors are read off the same scores.
        """
        if not self._splits:
            self._splits = {id(r.data): validation_split(r).to(self._device) for r in self._replicates}
        chosen = [self._replicates[position] for position in positions]
        every = [self._values(replicate, self._splits[id(replicate.data)], monitors) for replicate in chosen]
        return [list(of_monitor) for of_monitor in zip(*every, strict=True)]

    @torch.no_grad()
    def _values(self, replicate: Replicate, split: Split, monitors: Sequence[str]) -> list[float]:
        """The validation loss (or what the fusion monitors instead), 1 minus accuracy or macro F1: less is better."""
        scores = scores_of(replicate, split, self._recipe, self._device)

        def value(monitor: str) -> float:
            if monitor == "validation_loss":
                target = split.target.to(self._device)
                return float(replicate.fusion.monitored(as_fusion_input(scores, self._recipe.fusion_input), target))
            true = split.target.cpu().numpy()
            predicted = _fused(replicate, scores, self._recipe).argmax(1).cpu().numpy()
            if monitor == "validation_ACC":
                return 1.0 - float(accuracy_score(true, predicted))
            return 1.0 - float(f1_score(true, predicted, average="macro", zero_division=0))

        return [value(monitor) for monitor in monitors]
