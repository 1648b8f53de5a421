"""Predictions of replicates, their metrics, and what a fusion wants to know once training is over."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from multimodal_loss.datasets import Split
from multimodal_loss.errors import TrainingError, UserError
from multimodal_loss.fusion import ReadOut
from multimodal_loss.results.metrics import (
    METRICS,
    SMALLEST_PROBABILITY,
    compute_metrics,
    distrust_auc,
    fit_temperature,
    tempered,
)
from multimodal_loss.training.replicate import Recipe, Replicate, as_fusion_input


@torch.no_grad()
def scores_of(replicate: Replicate, split: Split, recipe: Recipe, device: torch.device) -> Tensor:
    """Scores (N, M, C) on `device`, computed in batches so that activations stay small; under trainer.amp float32, as
    in training. TrainingError: not finite.
    """
    was_training = replicate.backbone.training
    replicate.backbone.eval()
    batches = split.batches(None, recipe.trainer.eval_batch_size, device, workers=recipe.workers)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.trainer.amp):
        parts = [replicate.backbone([x.to(device) for x in batch.inputs]) for batch in batches]
    replicate.backbone.train(was_training)
    scores = torch.cat(parts)
    return _finite(scores.float() if recipe.trainer.amp else scores, replicate)


def masked(split: Split, device: torch.device) -> dict[str, Tensor]:
    """What a fusion is told of missing modalities."""
    return {} if split.mask is None else {"mask": split.mask.to(device)}


def _finite(values: Tensor, replicate: Replicate) -> Tensor:
    """The values. The loss is from before an update: the last update may still have spoilt the weights."""
    if not bool(values.isfinite().all()):
        raise TrainingError(
            f"what replicate {replicate.replicate_id} predicts is not finite; try a smaller optimizer.lr"
        )
    return values


@torch.no_grad()
def predict(replicate: Replicate, split: Split, recipe: Recipe, device: torch.device) -> dict[str, NDArray[Any]]:
    """`target` (N,), and the probabilities `fused` (N, C) and `modalities` (N, M, C), the softmax of each score.

    Where there is one, also `read_out` (N, M, C), and where the fusion has such, `weights` (N, M), how much it trusts
    each modality with each sample. Where the split has a mask, it is among them (N, M), and nothing is read out of what
    is missing (NaN).
    """
    scores = scores_of(replicate, split, recipe, device)
    mask = masked(split, device).get("mask")
    found = {
        "target": split.target.cpu().numpy(),
        "fused": _fused(replicate, scores, recipe, mask).float().cpu().numpy(),
        "modalities": scores.softmax(-1).float().cpu().numpy(),
    }
    if replicate.read_out is not None:
        found["read_out"] = replicate.read_out(scores).float().cpu().numpy()
    weights = replicate.fusion.modality_weights(as_fusion_input(scores, recipe.fusion_input), mask)
    if weights is not None and weights.shape[1] > 1:
        found["weights"] = weights.float().cpu().numpy()
    if mask is not None:
        found["mask"] = mask.cpu().numpy()
        if "read_out" in found:
            found["read_out"][~found["mask"]] = np.nan
    return found


def _fused(replicate: Replicate, scores: Tensor, recipe: Recipe, mask: Tensor | None = None) -> Tensor:
    """Fused probabilities (N, C), computed in batches."""
    parts = as_fusion_input(scores, recipe.fusion_input).split(recipe.trainer.eval_batch_size)
    masks = [None] * len(parts) if mask is None else mask.split(recipe.trainer.eval_batch_size)
    fused = [replicate.fusion.probabilities(part, there) for part, there in zip(parts, masks, strict=True)]
    return _finite(torch.cat(fused), replicate)


def metrics_of(prediction: dict[str, NDArray[Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of the fused prediction, and of every score's own: its softmax, and what is read out of it, if any is,
    over the samples that have the modality; all None where none has.
    """
    target = prediction["target"]
    found: dict[str, Any] = {"fused": compute_metrics(target, prediction["fused"])}
    rows = prediction["mask"].T if "mask" in prediction else [slice(None)] * len(names)
    for kind in ("modalities", "read_out"):
        if kind in prediction:
            each = zip(names, np.moveaxis(prediction[kind], 1, 0), rows, strict=True)
            found[kind] = {
                name: compute_metrics(target[n], np.ascontiguousarray(one[n]))
                if len(target[n])
                else dict.fromkeys(METRICS)
                for name, one, n in each
            }
    return found


def conclude(replicate: Replicate, recipe: Recipe, device: torch.device) -> Callable[[], Tensor]:
    """What comes after a replicate's last step, before it predicts. Gives its training scores, as the fusion reads
    them.
    """
    replicate.backbone.to(device).eval()
    replicate.fusion.to(device).eval()
    train = replicate.data.train

    def training_scores() -> Tensor:
        return as_fusion_input(scores_of(replicate, train, recipe, device), recipe.fusion_input)

    replicate.fusion.after_training(training_scores, train.target.to(device), **masked(train, device))
    return training_scores


def evaluate(
    replicate: Replicate,
    recipe: Recipe,
    device: torch.device,
    with_training_outputs: bool,
    temperature: float | None = None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A trained replicate's test predictions, and what result.json says of it: metrics, and the fusion's diagnostics.
    Beside what `predict` gives, the predictions hold the samples' `ids` (N,).

    `temperature` was fitted on samples held out of its training part; without one it is fitted on the validation part,
    where there is one; `test_tempered` are the metrics with it. Each modality's own prediction is also read out of its
    scores (`ReadOut`), by what is fitted to the training part. With `with_training_outputs` the predictions also hold
    `train_target` (N,), `train_modalities` (N, M, C), and what the fusion adds.
    """
    data, fusion, names = replicate.data, replicate.fusion, replicate.score_names
    training_scores = conclude(replicate, recipe, device)
    if len(names) > 1:
        scores = scores_of(replicate, data.train, recipe, device)
        read_out = ReadOut(len(data.classes), len(names), scores.shape[2])
        target = data.train.target.to(device)
        read_out.fit(scores, target, fusion.ignore_index, **masked(data.train, device))
        replicate.read_out = read_out.to(device)
    test = predict(replicate, data.test, recipe, device)
    metrics = {"test": metrics_of(test, names)}
    for name, (true, fused) in data.test.rescored(test["fused"]).items():
        metrics[f"test_{name}"] = {"fused": compute_metrics(true, fused)}
    if data.validation is not None:
        validation = predict(replicate, data.validation, recipe, device)
        metrics["validation"] = metrics_of(validation, names)
        if temperature is None:
            temperature = fit_temperature(validation["target"], validation["fused"])
    if temperature is not None:
        metrics["test_tempered"] = {"fused": compute_metrics(test["target"], tempered(test["fused"], temperature))}
    test |= {"ids": data.test.ids(), **data.test.extra_arrays()}
    if "replaced" in test and "weights" in test:
        metrics["test"]["distrust"] = {"AUC": distrust_auc(test["weights"], test["replaced"])}
    if with_training_outputs:
        train = predict(replicate, data.train, recipe, device)
        test |= {"train_target": train["target"], "train_modalities": train["modalities"]}
        test |= {name: array.float().cpu().numpy() for name, array in fusion.extra_arrays().items()}
    diagnostics = fusion.diagnostics(training_scores, data.train.target.to(device), **masked(data.train, device))
    report = {"metrics": metrics, "temperature": temperature, **diagnostics}
    return test, report


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
        """The validation loss (or what the fusion monitors instead), the NLL of the fused probabilities, 1 minus
        accuracy or macro F1: less is better.
        """
        scores = scores_of(replicate, split, self._recipe, self._device)

        there = masked(split, self._device)

        @cache
        def fused() -> NDArray[Any]:  # once for all monitors that want it
            return _fused(replicate, scores, self._recipe, there.get("mask")).cpu().numpy()

        def value(monitor: str) -> float:
            if monitor == "validation_loss":
                target = split.target.to(self._device)
                inputs = as_fusion_input(scores, self._recipe.fusion_input)
                return float(replicate.fusion.monitored(inputs, target, **there))
            true = split.target.cpu().numpy()
            if monitor == "validation_NLL":
                likelihoods = np.take_along_axis(fused(), true[:, None], axis=1)
                return float(-np.log(np.maximum(likelihoods, SMALLEST_PROBABILITY)).mean())
            predicted = fused().argmax(1)
            if monitor == "validation_ACC":
                return 1.0 - float(accuracy_score(true, predicted))
            return 1.0 - float(f1_score(true, predicted, average="macro", zero_division=0))

        return [value(monitor) for monitor in monitors]
